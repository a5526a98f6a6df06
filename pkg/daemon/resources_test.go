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

func TestRunningJobsSuitTheMachine(t *testing.T) {
	for _, c := range []struct {
		configured, sandboxes, cores int
		gib                          int64
		want                         int
	}{
		{7, 32, 1, 1, 7}, {0, 32, 2, 23, 4}, {0, 32, 4, 4, 4}, {0, 32, 1, 1, 1}, {0, 32, 64, 256, 32}, {0, 32, 2, 0, 4}, {0, 1, 8, 8, 1},
	} {
		if got := runningJobs(c.configured, c.sandboxes, c.cores, c.gib<<30, false); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if got := runningJobs(0, 32, 4, 300<<20, false); got != 1 {
		t.Errorf("on little memory: %d", got)
	}
	if got := runningJobs(0, 32, 8, 10<<30, true); got != 8 {
		t.Errorf("with browsers: %d", got)
	}
}

func TestWarmAgentsSuitTheMachine(t *testing.T) {
	for _, c := range []struct {
		configured int
		memory     int64
		want       int
	}{{-1, 24 << 30, 12}, {-1, 1 << 30, 0}, {-1, 0, 0}, {0, 24 << 30, 0}, {3, 1 << 30, 3}} {
		if got := warmAgents(c.configured, c.memory); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
