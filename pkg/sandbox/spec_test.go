package sandbox

import (
	"math"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	with := func(m ...Mount) Spec { return Spec{Root: Root{Path: "/root"}, Mounts: m} }
	bounded := func(l Limits) Spec { return Spec{Root: Root{Path: "/root"}, Limits: l} }
	relayed := func(port uint16, socket string) Spec {
		return Spec{Root: Root{Path: "/root"}, Relay: Relay{port, socket}}
	}
	tests := map[string]struct {
		spec Spec
		want string // in the error; "" if valid
	}{
		"smallest":                   {with(), ""},
		"bind":                       {with(Mount{Source: "/a", Target: "/b", Writable: true}), ""},
		"tmpfs":                      {with(Mount{Target: "/b", Size: 1, Mode: 0o1777}), ""},
		"mount in a mount":           {with(Mount{Target: "/b"}, Mount{Source: "/a", Target: "/b/c"}), ""},
		"limits":                     {bounded(Limits{MemoryBytes: 1, CPUs: 0.5, Processes: 1, OpenFiles: 1}), ""},
		"relay":                      {relayed(3128, "/run/x.sock"), ""},
		"relay without a port":       {relayed(0, "/run/x.sock"), "relay"},
		"relay on a privileged port": {relayed(80, "/run/x.sock"), "relay"},
		"relay without a socket":     {relayed(3128, ""), "relay"},
		"relay to a relative path":   {relayed(3128, "run/x.sock"), "relay"},
		"relay with dots":            {relayed(3128, "/run/../x.sock"), "relay"},
		"relay with a NUL":           {relayed(3128, "/run/x\x00"), "relay"},
		"no root":                    {Spec{}, "root"},
		"relative root":              {Spec{Root: Root{Path: "root"}}, "absolute"},
		"relative source":            {with(Mount{Source: "a", Target: "/b"}), "source"},
		"relative target":            {with(Mount{Source: "/a", Target: "b"}), "target"},
		"empty target":               {with(Mount{Source: "/a"}), "target"},
		"target with dots":           {with(Mount{Source: "/a", Target: "/b/../c"}), "clean"},
		"target with slash":          {with(Mount{Source: "/a", Target: "/b/"}), "clean"},
		"target is the root":         {with(Mount{Source: "/a", Target: "/"}), "target"},
		"NUL in the source":          {with(Mount{Source: "/a\x00", Target: "/b"}), "NUL"},
		"NUL in the target":          {with(Mount{Source: "/a", Target: "/b\x00"}), "NUL"},
		"size of a bind":             {with(Mount{Source: "/a", Target: "/b", Size: 1}), "tmpfs"},
		"mode of a bind":             {with(Mount{Source: "/a", Target: "/b", Mode: 0o700}), "tmpfs"},
		"negative size":              {with(Mount{Target: "/b", Size: -1}), "range"},
		"mode with a type":           {with(Mount{Target: "/b", Mode: 0o170000}), "range"},
		"mount in the root":          {Spec{Root: Root{Path: "/root", Mounts: []Mount{{Source: "a", Target: "/b"}}}}, "source"},
		"negative memory":            {bounded(Limits{MemoryBytes: -1}), "limits"},
		"negative CPUs":              {bounded(Limits{CPUs: -0.1}), "limits"},
		"CPUs that are not a number": {bounded(Limits{CPUs: math.NaN()}), "limits"},
		"infinite CPUs":              {bounded(Limits{CPUs: math.Inf(1)}), "limits"},
		"negative processes":         {bounded(Limits{Processes: -1}), "limits"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.spec.Validate()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Validate: %v", err)
			}
		})
	}
}

func TestZeroLimitsAreTheDefaults(t *testing.T) {
	want := Limits{MemoryBytes: DefaultMemoryBytes, Processes: DefaultProcesses, OpenFiles: DefaultOpenFiles}
	if got := (Limits{}).WithDefaults(); got != want {
		t.Errorf("defaults: %+v", got)
	}
	own := Limits{MemoryBytes: 1, CPUs: 2, Processes: 3, OpenFiles: 4}
	if got := own.WithDefaults(); got != own {
		t.Errorf("limits that are set became %+v", got)
	}
}

func TestValidateDoesNotChangeTheMounts(t *testing.T) {
	root := make([]Mount, 1, 2) // capacity for an append to write into
	root[0] = Mount{Source: "/a", Target: "/a"}
	s := Spec{Root: Root{Path: "/root", Mounts: root}, Mounts: []Mount{{Source: "/b", Target: "/b"}}}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := root[:2][1]; got != (Mount{}) {
		t.Errorf("the array of the root's mounts was changed: %+v", got)
	}
}
