package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/notef-neighbor/dreamcore/"

// storeys are the folders of the repository, from the ground up. A package
// imports packages of lower storeys, and those of its own storey that alongside
// lists. CONTRIBUTING.md draws the same picture.
var storeys = [][]string{
	{"pkg/dreamcore", "pkg/system", "pkg/docs"},
	{"pkg/store", "pkg/cluster"},
	{"pkg/sandbox", "pkg/model"},
	{"pkg/work"},
	{"pkg/api", "pkg/operate"},
	{"pkg/config", "pkg/daemon"},
	{"cmd"},
}

// alongside lists the imports within a storey.
var alongside = map[string][]string{
	"pkg/system/admission":     {"pkg/dreamcore"},
	"pkg/system/statefile":     {"pkg/dreamcore"},
	"pkg/system/tree":          {"pkg/dreamcore", "pkg/system/statefile"},
	"pkg/system/term":          {"pkg/dreamcore"},
	"pkg/system/tree/treetest": {"pkg/system/tree"},

	"pkg/docs": {"pkg/system/term"},

	"pkg/store/volume": {"pkg/store/disk"},

	"pkg/cluster/spending": {"pkg/cluster/kube", "pkg/store/usage"},

	"pkg/sandbox/oci":                     {"pkg/sandbox"},
	"pkg/sandbox/pid1":                    {"pkg/sandbox"},
	"pkg/sandbox/rootfs":                  {"pkg/sandbox"},
	"pkg/sandbox/sandboxtest":             {"pkg/sandbox"},
	"pkg/sandbox/sandboxtest/browsertest": {"pkg/sandbox/sandboxtest"},

	"pkg/sandbox/engine":       {"pkg/sandbox", "pkg/sandbox/oci", "pkg/sandbox/pid1"},
	"pkg/sandbox/gvisor/boot":  {"pkg/sandbox"},
	"pkg/sandbox/gvisor":       {"pkg/sandbox", "pkg/sandbox/engine", "pkg/sandbox/gvisor/boot", "pkg/sandbox/oci"},
	"pkg/sandbox/gvisor/runsc": {"pkg/sandbox/engine", "pkg/sandbox/gvisor", "pkg/sandbox/gvisor/boot"},
	"pkg/sandbox/runc":         {"pkg/sandbox", "pkg/sandbox/engine", "pkg/sandbox/oci", "pkg/sandbox/pid1"},

	"pkg/model/upstream": {"pkg/model/gateway"},

	"pkg/work/acceptance":         {"pkg/work/acceptance/verdict"},
	"pkg/work/acceptance/browser": {"pkg/work/acceptance/verdict"},
	"pkg/work/acceptance/corpus":  {"pkg/work/acceptance/verdict"},
	"pkg/work/acceptance/site":    {"pkg/work/acceptance/verdict"},

	"pkg/work/account":                   {"pkg/work/workspace"},
	"pkg/work/archive":                   {"pkg/work/project"},
	"pkg/work/relocation":                {"pkg/work/archive", "pkg/work/workspace"},
	"pkg/work/relocation/relocationtest": {"pkg/work/account", "pkg/work/archive", "pkg/work/job", "pkg/work/relocation"},
	"pkg/work/job":                       {"pkg/work/acceptance", "pkg/work/acceptance/verdict", "pkg/work/agent", "pkg/work/workspace"},
	"pkg/work/probe":                     {"pkg/work/workspace"},

	"pkg/api/route": {"pkg/api/server"},

	"pkg/operate/cells":    {"pkg/api/client", "pkg/operate/commandline", "pkg/operate/show"},
	"pkg/operate/deploy":   {"pkg/api/client", "pkg/operate/gate"},
	"pkg/operate/gameview": {"pkg/api/client", "pkg/api/preview"},
	"pkg/operate/gate":     {"pkg/api/client"},
	"pkg/operate/lend":     {"pkg/api/control"},
	"pkg/operate/jobs":     {"pkg/api/client", "pkg/api/control", "pkg/operate/gameview", "pkg/operate/show"},

	"pkg/daemon": {"pkg/config", "pkg/daemon/crash"},
}

// mainOnly are packages that only the named packages may import.
var mainOnly = map[string][]string{
	"pkg/config":               {"cmd/dreamcore", "pkg/daemon"},
	"pkg/sandbox/gvisor/runsc": {"cmd/dreamcore"}, // the engine itself
}

// storeyOf returns the storey of a package, or -1.
func storeyOf(name string) int {
	return slices.IndexFunc(storeys, func(folders []string) bool {
		return slices.ContainsFunc(folders, func(f string) bool { return name == f || strings.HasPrefix(name, f+"/") })
	})
}

func TestPackagesImportDownwardsOnly(t *testing.T) {
	unused := map[string]bool{}
	for from, deps := range alongside {
		for _, dep := range deps {
			unused[from+" imports "+dep] = true
		}
	}
	for name, imports := range packages(t) {
		storey := storeyOf(name)
		if storey < 0 {
			t.Errorf("%s is in no storey: put it into a folder of one", name)
		}
		for _, dep := range imports {
			at := storeyOf(dep)
			switch {
			case at > storey:
				t.Errorf("%s imports upwards: %s", name, dep)
			case at == storey && !slices.Contains(alongside[name], dep):
				t.Errorf("%s imports %s of its own storey, which alongside does not list", name, dep)
			}
			if allowed, ok := mainOnly[dep]; ok && !slices.Contains(allowed, name) {
				t.Errorf("%s imports %s, which is for %v", name, dep, allowed)
			}
			delete(unused, name+" imports "+dep)
		}
	}
	for edge := range unused {
		t.Errorf("alongside lists what no code does: %s", edge)
	}
}

// packages returns every package of the repository with its imports from the
// repository, both relative to the module.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
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
		found[name] = []string{}
		for _, i := range p.Imports {
			if dep, ours := strings.CutPrefix(i, module); ours {
				found[name] = append(found[name], dep)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return found
}

// The folders are the picture: every folder below pkg is in a storey and is drawn
// in CONTRIBUTING.md, which draws no other.
func TestTheFoldersAreTheStoreys(t *testing.T) {
	raw, err := os.ReadFile("../../../.github/CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("../../../pkg")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 12 {
		t.Errorf("%d folders below pkg: a newcomer should see about ten", len(entries))
	}
	for _, e := range entries {
		if storeyOf("pkg/"+e.Name()) < 0 {
			t.Errorf("pkg/%s is in no storey", e.Name())
		}
	}
	_, drawing, _ := strings.Cut(string(raw), "## The picture")
	drawing, _, _ = strings.Cut(drawing, "\n## ")
	last := len(drawing)
	for n, folders := range storeys {
		for _, f := range folders {
			at := strings.Index(drawing, "`"+f+"`")
			if at < 0 {
				t.Errorf("CONTRIBUTING.md does not draw `%s`", f)
				continue
			}
			if at > last {
				t.Errorf("CONTRIBUTING.md draws `%s` (storey %d) below a lower storey", f, n)
			}
		}
		for _, f := range folders {
			if at := strings.Index(drawing, "`"+f+"`"); at >= 0 {
				last = min(last, at)
			}
		}
	}
}
