package e2e

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// unitCapabilities returns the capabilities of the service in the unit for an
// engine, in the form of setpriv.
func unitCapabilities(t *testing.T, h *host, engine string) string {
	t.Helper()
	var plan struct {
		Steps []struct {
			Name string
			Item struct{ Content string }
		}
	}
	dry := *h
	dry.env = slices.DeleteFunc(slices.Clone(h.env), func(kv string) bool { return strings.HasPrefix(kv, "DREAMCORE_STATE=") })
	out := dry.must("deploy", "--dry-run", "--json", "--root", t.TempDir(), "--runtime", engine)
	if err := json.Unmarshal([]byte(out), &plan); err != nil {
		t.Fatal(err)
	}
	caps := []string{"-all"}
	for _, s := range plan.Steps {
		for line := range strings.Lines(s.Item.Content) {
			if names, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok {
				for _, name := range strings.Fields(names) {
					caps = append(caps, "+"+strings.ToLower(strings.TrimPrefix(name, "CAP_")))
				}
			}
		}
	}
	if len(caps) == 1 {
		t.Fatalf("the unit leaves nothing:\n%s", out)
	}
	return strings.Join(caps, ",")
}

// The capabilities of the unit suffice for its engine, and those for gVisor do not
// suffice for runc.
func TestUnitAllowsWhatTheEngineNeeds(t *testing.T) {
	setpriv, err := exec.LookPath("setpriv")
	sandboxtest.Need(t, err == nil, "setpriv")
	h := newHost(t)
	h.env = append(h.env, "ALLOW_NON_GVISOR=1")
	for _, tt := range []struct {
		engine, unit string
		works        bool
	}{{"gvisor", "gvisor", true}, {"runc", "runc", true}, {"runc", "gvisor", false}} {
		t.Run(tt.engine+" under the unit for "+tt.unit, func(t *testing.T) {
			h.t = t
			caps := unitCapabilities(t, h, tt.unit)
			under := *h
			under.exe = setpriv
			r := under.run("--bounding-set", caps, "--inh-caps", "-all", "--no-new-privs", "--",
				h.exe, "gate", "sandbox-io", "isolation", "volume", "--runtime", tt.engine)
			if (r.code == 0) != tt.works {
				t.Errorf("with %s: exit code %d\n%s\n%s", caps, r.code, r.stdout, r.stderr)
			}
		})
	}
}
