package sandboxtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// CreateLeavesTheRootAsItIs checks that mounts at paths that the root does not
// have leave the root unchanged.
func CreateLeavesTheRootAsItIs(t *testing.T, open Open) {
	p, root := open(t, t.TempDir())
	before := tree(t, root.Path)
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Mounts: []sandbox.Mount{
		{Source: t.TempDir(), Target: "/data/users/u1/projects/p1"},
		{Source: t.TempDir(), Target: "/not/in/the/root"},
	}})
	must(t, err)
	if got := Output(t, sb, "ls -d /data/users/u1/projects/p1 /not/in/the/root"); strings.Count(got, "\n") != 2 {
		t.Errorf("ls: %q", got)
	}
	if after := tree(t, root.Path); after != before {
		t.Errorf("the shared root has changed:\n%s\nbefore:\n%s", after, before)
	}
}

// tree lists the files of a directory with their modes, for a comparison.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err == nil {
			b.WriteString(fi.Mode().String() + " " + path + "\n")
		}
		return err
	})
	must(t, err)
	return b.String()
}
