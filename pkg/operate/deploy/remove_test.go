package deploy

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files returns the paths of all files on the machine.
func (m *machine) files() []string {
	m.t.Helper()
	var names []string
	err := filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(path, m.root))
		}
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return names
}

func TestTheRemovalOfThePageLeavesNothing(t *testing.T) {
	rm, err := exec.LookPath("rm") // before the machine hides the commands
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/upgrade.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Remove\n")
	_, block, _ := strings.Cut(section, "```sh\n")
	block, _, ok := strings.Cut(block, "\n```")
	if !ok {
		t.Fatal("the page has no block of commands for the removal")
	}
	m := newMachine(t)
	before := m.files()
	agent := filepath.Join(t.TempDir(), "claude") // below /tmp, so that it is copied
	if err := os.WriteFile(agent, []byte("\x7fELF agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.opts.Claude = agent
	m.mustDeploy()
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		args := strings.Fields(line)
		if len(args) < 3 || args[0] != "sudo" || args[1] != "rm" {
			continue
		}
		args = args[2:]
		for i, arg := range args {
			if strings.HasPrefix(arg, "/") {
				args[i] = m.host(arg)
			}
		}
		if out, err := exec.Command(rm, args...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", strings.TrimSpace(line), err, out)
		}
	}
	for _, name := range m.files() {
		if !slices.Contains(before, name) {
			t.Errorf("%s is left", name)
		}
	}
}
