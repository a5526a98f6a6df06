package sandbox

import (
	"slices"
	"testing"
)

func TestSetupSurvivesTheArguments(t *testing.T) {
	limits := []Rlimit{{"RLIMIT_NOFILE", 4096}, {"RLIMIT_CORE", 0}, {"RLIMIT_NPROC", 1<<64 - 1}}
	relay := Relay{Port: 4000, Socket: "/run/x/egress.sock"}
	for _, want := range []Setup{{}, {Relay: relay}, {Rlimits: limits}, {Relay: relay, Rlimits: limits}} {
		if got, err := ParseSetup(want.Args()); err != nil || got.Relay != want.Relay || !slices.Equal(got.Rlimits, want.Rlimits) {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
	if args := (Setup{}).Args(); args != nil {
		t.Errorf("arguments of an empty setup: %q", args)
	}
	for _, bad := range [][]string{
		{""}, {"x"}, {"{}", "x"}, {`{"rlimits":[{"Name":"RLIMIT_CORE","Value":-1}]}`}, {`{"rlimits":[{"Name":"RLIMIT_CORE","Value":1},]}`},
		{"{}"}, {"null"}, {`{"rlimits":[]}`}, {`{"limits":[{"Name":"RLIMIT_CORE","Value":1}]}`}, {`{"rlimits":[{"Name":"RLIMIT_CORE","Soft":1}]}`},
		{`{"rlimits":[{"Name":"RLIMIT_CORE","Value":1}]} {}`}, {`{"rlimits":[{"Name":"RLIMIT_CORE","Value":1}]}x`},
		{`{"relay":{"Port":80,"Socket":"/run/x"}}`}, {`{"relay":{"Port":70000,"Socket":"/run/x"}}`}, {`{"relay":{"Port":4000,"Socket":"x"}}`},
	} {
		if got, err := ParseSetup(bad); err == nil {
			t.Errorf("%q was parsed as %+v", bad, got)
		}
	}
}
