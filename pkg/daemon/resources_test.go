package daemon

import "testing"

func TestMemoryLimit(t *testing.T) {
	for _, c := range []struct {
		environment bool
		configured  int
		available   int64
		want        int64
	}{
		{true, 700, 1 << 30, 0},
		{false, 700, 1 << 30, 700 << 20},
		{false, 0, 1000 << 20, 500 << 20},
		{false, 0, 0, 0},
	} {
		if got := memoryLimit(c.environment, c.configured, c.available); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
