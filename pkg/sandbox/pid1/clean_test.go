package pid1

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCleanRemovesAllWithoutFollowingLinks(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "target")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside, []byte("x"), 0o600))
	must(os.Symlink(outside, filepath.Join(dir, "link")))
	must(os.Symlink(filepath.Dir(outside), filepath.Join(dir, "dirlink")))
	must(os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", 300)), 0o700))
	must(os.MkdirAll(filepath.Join(dir, "closed/inner"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "closed/inner/f"), nil, 0))
	must(os.WriteFile(filepath.Join(dir, " new\nline"), nil, 0o600))
	must(os.Chmod(filepath.Join(dir, "closed/inner"), 0))
	must(os.Chmod(filepath.Join(dir, "closed"), 0))
	must(Clean([]string{dir, filepath.Join(dir, "not-there")}))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("target of a link: %v", err)
	}
	if err := Clean([]string{outside}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file: %v", err)
	}
}

func TestCleanRemovesSpecialFilesOnly(t *testing.T) {
	dir := t.TempDir()
	path := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, err := range []error{
		os.MkdirAll(path("p/.claude/projects"), 0o700), os.MkdirAll(path("closed"), 0o700),
		syscall.Mkfifo(path("p/.claude.json"), 0o600), syscall.Mkfifo(path("p/.claude/projects/f"), 0o600), syscall.Mkfifo(path("closed/f"), 0o600),
		os.WriteFile(path("p/file"), nil, 0o600), os.Symlink("/dev/null", path("p/link")), os.Chmod(path("closed"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Clean([]string{SpecialPrefix + dir, SpecialPrefix + path("not-there")}); err != nil {
		t.Error(err)
	}
	for name, kept := range map[string]bool{"p/.claude.json": false, "p/.claude/projects/f": false, "closed/f": false, "p/file": true, "p/link": true} {
		if _, err := os.Lstat(path(name)); (err == nil) != kept {
			t.Errorf("%s: %v", name, err)
		}
	}
}
