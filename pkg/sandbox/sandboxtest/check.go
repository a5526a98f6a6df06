package sandboxtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Output runs a shell script in a sandbox as root and returns what it prints. The
// script must succeed.
func Output(t testing.TB, sb sandbox.Sandbox, script string) string {
	t.Helper()
	var out bytes.Buffer
	p, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Fatalf("%s: %+v, %v, %s", script, exit, err, out.String())
	}
	return out.String()
}

// CreateLeavesTheRootAsItIs checks that mounts at paths that the root does not
// have leave the root unchanged.
func CreateLeavesTheRootAsItIs(t *testing.T, open Open) {
	p, root := open(t, t.TempDir())
	before := tree(t, root.Path)
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Mounts: []sandbox.Mount{
		{Source: t.TempDir(), Target: "/data/users/u1/projects/p1"},
		{Source: t.TempDir(), Target: "/not/in/the/root"},
	}})
	if err != nil {
		t.Fatal(err)
	}
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
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
