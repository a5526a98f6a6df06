package dreamcore

import (
	"strings"
	"testing"
)

func TestTreeMeter(t *testing.T) {
	for _, c := range []struct {
		dir  int
		name string
		want string
	}{
		{0, strings.Repeat("n", MaxNameBytes), ""},
		{0, strings.Repeat("n", MaxNameBytes+1), nameTooLong},
		{MaxPathBytes - 2, "n", ""},
		{MaxPathBytes - 1, "n", pathTooLong},
	} {
		var m TreeMeter
		if got := m.Add(c.dir, c.name); got != c.want {
			t.Errorf("%d %d: %q, want %q", c.dir, len(c.name), got, c.want)
		}
	}
	var m TreeMeter
	name := strings.Repeat("n", MaxNameBytes)
	for range MaxTreePaths / MaxNameBytes {
		if reason := m.Add(0, name); reason != "" {
			t.Fatal(reason)
		}
	}
	if m.Add(0, name) != pathsTooLong { // the remaining bytes fit short names only
		t.Error("more than all paths may have")
	}
	if reason := m.Add(0, "a"); reason != "" {
		t.Error(reason)
	}
}
