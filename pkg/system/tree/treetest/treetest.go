// Package treetest makes and reads directory trees for tests.
package treetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Write writes files below dir, by their relative paths.
func Write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// Contents returns the contents of everything in dir except for directories, by
// path; links are not followed.
func Contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch d.Type() {
		case 0:
			raw, err := os.ReadFile(path)
			got[name] = string(raw)
			return err
		case os.ModeSymlink:
			target, err := os.Readlink(path)
			got[name] = "-> " + target
			return err
		}
		got[name] = d.Type().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// Outside makes a directory with the file "secret", which contains "needle". No
// tree may show it.
func Outside(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	Write(t, dir, map[string]string{"secret": "needle"})
	return dir
}

// Visible are the files of a Hostile tree that a project shows.
var Visible = []string{"assets/a b\n\xff.png", "assets/b.png", "deep" + strings.Repeat("/d", tree.MaxDepth-2) + "/just", "index.html"}

// Hostile fills dir with everything that a sandbox can put there. Some links
// point to outside. It changes the working directory of the test.
func Hostile(t *testing.T, dir, outside string) {
	t.Helper()
	Write(t, dir, map[string]string{
		"index.html": "<html>", "assets/b.png": "png!", "assets/a b\n\xff.png": "odd", ".env": "hidden", ".git/config": "[core]", "z/.hidden/x": "hidden",
	})
	for name, target := range map[string]string{
		"link.txt": filepath.Join(outside, "secret"), "linkdir": outside, "inner.html": "index.html", "assets/up": "../..", "loop": "loop", "self": ".",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	t.Chdir(dir) // the address of a socket must be short
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: "socket"}); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "deep"+strings.Repeat("/d", tree.MaxDepth+10))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	Write(t, deep, map[string]string{"too-deep": ""})
	Write(t, dir, map[string]string{"deep" + strings.Repeat("/d", tree.MaxDepth-2) + "/just": "x"})
}
