package sandbox

import (
	"slices"
	"testing"
)

func TestRlimitsSurviveTheArguments(t *testing.T) {
	limits := []Rlimit{{"RLIMIT_NOFILE", 4096}, {"RLIMIT_CORE", 0}, {"RLIMIT_NPROC", 1<<64 - 1}}
	relay := Relay{Port: 4000, Socket: "/run/x/egress.sock"}
	got, rest, err := ParseRlimits(append(RlimitArgs(limits), relay.Args()...))
	if err != nil || !slices.Equal(got, limits) {
		t.Errorf("limits: %+v, %v", got, err)
	}
	if r, err := ParseRelay(rest); err != nil || r != relay {
		t.Errorf("relay: %+v, %v", r, err)
	}
	if got, rest, err := ParseRlimits(relay.Args()); err != nil || got != nil || !slices.Equal(rest, relay.Args()) {
		t.Errorf("without limits: %+v, %q, %v", got, rest, err)
	}
	if args := RlimitArgs(nil); args != nil {
		t.Errorf("arguments without limits: %q", args)
	}
	for _, bad := range [][]string{{"rlimits"}, {"rlimits", ""}, {"rlimits", "RLIMIT_CORE"}, {"rlimits", "=1"}, {"rlimits", "RLIMIT_CORE=-1"}, {"rlimits", "RLIMIT_CORE=1,"}} {
		if got, _, err := ParseRlimits(bad); err == nil {
			t.Errorf("%q was parsed as %+v", bad, got)
		}
	}
}
