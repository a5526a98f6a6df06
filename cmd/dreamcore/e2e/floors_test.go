package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/notef-neighbor/dreamcore/"

// floors are the layers of the program: a package imports only packages of
// lower floors. The README draws the same picture.
var floors = map[string]int{
	"pkg/dreamcore": 0,

	"pkg/sandbox": 1, "pkg/term": 1, "pkg/cgroup": 1, "pkg/socket": 1, "pkg/disk": 1, "pkg/audit": 1,
	"pkg/prefault": 1, "pkg/admission": 1, "pkg/sandbox/gvisor/boot": 1,

	// What the engines share.
	"pkg/sandbox/pid1": 2, "pkg/sandbox/oci": 2,

	"pkg/sandbox/engine": 3, "pkg/sandbox/sandboxtest": 3,
	"pkg/agent": 3, "pkg/gateway": 3, "pkg/egress": 3, "pkg/replay": 3, "pkg/volume": 3,
	"pkg/history": 3, "pkg/journal": 3, "pkg/secret": 3, "pkg/rootfs": 3, "pkg/image": 3,
	"pkg/pool": 3, "pkg/upstream/upstreamtest": 3, "pkg/usage": 3,

	"pkg/sandbox/gvisor": 4, "pkg/sandbox/runc": 4,
	"pkg/generate": 4, "pkg/prompt": 4, "pkg/edit": 4, "pkg/probe": 4, "pkg/client": 4, "pkg/upstream": 4, "pkg/crash": 4, "pkg/content": 4, "pkg/archive": 4,

	"pkg/server": 5, "pkg/gate": 5, "pkg/setup": 5, "pkg/deploy": 5, "pkg/config": 5, "pkg/doctor": 5, "pkg/control": 5, "pkg/preview": 5,
	"pkg/sandbox/gvisor/runsc": 5, // the engine itself, for main only

	"cmd/dreamcore": 6, "cmd/dreamcore/e2e": 6, "cmd/dreamcore-init": 6,
}

// onlyMain are imported by the program and by nothing else.
var onlyMain = []string{"pkg/config", "pkg/sandbox/gvisor/runsc"}

func TestPackagesImportDownwardsOnly(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(out); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		seen[name] = true
		floor, ok := floors[name]
		if !ok {
			t.Errorf("%s has no floor: give it one, here and in the README", name)
			continue
		}
		for _, i := range p.Imports {
			if dep, ours := strings.CutPrefix(i, module); ours {
				checkImport(t, name, floor, dep)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for name := range floors {
		if !seen[name] {
			t.Errorf("%s has a floor but does not exist", name)
		}
	}
}

// TestTheREADMEDrawsTheSameFloors reads lines like "4  a  b (why)  sandbox/c":
// packages below pkg, or commands.
func TestTheREADMEDrawsTheSameFloors(t *testing.T) {
	raw, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, drawing, _ := strings.Cut(string(raw), "## Floors")
	drawn := map[string]int{"cmd/dreamcore/e2e": 6} // tests only
	for _, line := range regexp.MustCompile(`(?m)^([0-9])  (.*)$`).FindAllStringSubmatch(drawing, -1) {
		for _, name := range strings.Fields(regexp.MustCompile(`\([^)]*\)`).ReplaceAllString(line[2], "")) {
			if !strings.HasPrefix(name, "cmd/") {
				name = "pkg/" + name
			}
			drawn[name] = int(line[1][0] - '0')
		}
	}
	for name, floor := range floors {
		if at, ok := drawn[name]; !ok || at != floor {
			t.Errorf("%s is on floor %d; the README has it on %d (drawn: %v)", name, floor, at, ok)
		}
		delete(drawn, name)
	}
	if len(drawn) > 0 {
		t.Errorf("the README draws %v, which are not there", drawn)
	}
}

func checkImport(t *testing.T, name string, floor int, dep string) {
	t.Helper()
	if floors[dep] >= floor {
		t.Errorf("%s (floor %d) imports %s (floor %d)", name, floor, dep, floors[dep])
	}
	for _, o := range onlyMain {
		if dep == o && name != "cmd/dreamcore" {
			t.Errorf("%s imports %s, which is for the program alone", name, dep)
		}
	}
}
