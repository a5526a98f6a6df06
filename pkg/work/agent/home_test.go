package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// newHome creates a HOME with a conversation.
func newHome(t *testing.T) (root *os.Root, path func(...string) string) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	path = func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	fill(t, path(homeDir, "projects", "p", "s.jsonl"), "talk")
	fill(t, path(homeSettings), `{"a":1}`)
	return root, path
}

func fill(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnusableFilesAreSetAside(t *testing.T) {
	type at func(...string) string
	for _, tt := range []struct {
		name   string
		spoil  func(*testing.T, at)
		mended []string
	}{
		{"a home as it should be", func(*testing.T, at) {}, nil},
		{"a new home", func(t *testing.T, p at) { do(t, os.RemoveAll(p(homeDir)), os.Remove(p(homeSettings))) }, nil},
		{"empty", func(t *testing.T, p at) { fill(t, p(homeSettings), "") }, []string{homeSettings}},
		{"cut", func(t *testing.T, p at) { fill(t, p(homeSettings), `{"a":`) }, []string{homeSettings}},
		{"no object", func(t *testing.T, p at) { fill(t, p(homeSettings), `[1]`) }, []string{homeSettings}},
		{"null", func(t *testing.T, p at) { fill(t, p(homeSettings), `null`) }, []string{homeSettings}},
		{"a directory", func(t *testing.T, p at) {
			do(t, os.Remove(p(homeSettings)), os.MkdirAll(p(homeSettings, "x", "y"), 0o700))
		}, []string{homeSettings}},
		{"a FIFO", func(t *testing.T, p at) { do(t, os.Remove(p(homeSettings)), syscall.Mkfifo(p(homeSettings), 0o600)) }, []string{homeSettings}},
		{"a link to itself", func(t *testing.T, p at) {
			do(t, os.Remove(p(homeSettings)), os.Symlink(homeSettings, p(homeSettings)))
		}, []string{homeSettings}},
		{"a link out of the home", func(t *testing.T, p at) {
			do(t, os.Remove(p(homeSettings)), os.Symlink("/etc/passwd", p(homeSettings)))
		}, []string{homeSettings}},
		{"huge", func(t *testing.T, p at) { do(t, os.Truncate(p(homeSettings), 1<<40)) }, []string{homeSettings}},
		{"no directory", func(t *testing.T, p at) { do(t, os.RemoveAll(p(homeDir))); fill(t, p(homeDir), "x") }, []string{homeDir}},
		{"a link in place of the directory", func(t *testing.T, p at) {
			do(t, os.Rename(p(homeDir), p("elsewhere")), os.Symlink("elsewhere", p(homeDir)))
		}, []string{homeDir}},
		{"FIFOs below", func(t *testing.T, p at) {
			do(t, syscall.Mkfifo(p(homeDir, "a"), 0o600), syscall.Mkfifo(p(homeDir, "projects", "p", "b"), 0o600))
		}, []string{homeDir + "/a", homeDir + "/projects/p/b"}},
		{"all at once", func(t *testing.T, p at) {
			fill(t, p(homeSettings), "x")
			do(t, syscall.Mkfifo(p(homeDir, "a"), 0o600))
		}, []string{homeSettings, homeDir + "/a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, path := newHome(t)
			tt.spoil(t, path)
			fill(t, path(homeSettings+asideSuffix, "of", "an earlier run"), "old")
			mended, err := MendHome(root, uint32(os.Getuid()))
			slices.Sort(mended)
			want := slices.Sorted(slices.Values(tt.mended))
			if err != nil || !slices.Equal(mended, want) {
				t.Errorf("mended %q, want %q, %v", mended, want, err)
			}
			for _, name := range tt.mended {
				if _, err := os.Lstat(path(name)); err == nil {
					t.Errorf("%s is still there", name)
				}
				if _, err := os.Lstat(path(name + asideSuffix)); (err == nil) == strings.Contains(name, "/") {
					t.Errorf("%s%s: %v", name, asideSuffix, err)
				}
			}
			if again, err := MendHome(root, uint32(os.Getuid())); err != nil || len(again) > 0 {
				t.Errorf("a second time: %q, %v", again, err)
			}
		})
	}
}

func TestMendHomeRestoresAccess(t *testing.T) {
	if os.Getuid() != 0 {
		sandboxtest.Need(t, false, "root: nobody else has other owners")
	}
	const user = 10000
	root, path := newHome(t)
	do(t, os.Chmod(path(homeSettings), 0), os.Chmod(path(homeDir), 0))
	if mended, err := MendHome(root, user); err != nil || len(mended) > 0 {
		t.Errorf("mended %q, %v", mended, err)
	}
	for name, mode := range map[string]os.FileMode{homeSettings: 0o600, homeDir: 0o700} {
		info, err := os.Lstat(path(name))
		if err != nil || info.Mode().Perm() != mode || info.Sys().(*syscall.Stat_t).Uid != user {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestRenewHomeAndUndo(t *testing.T) {
	root, path := newHome(t)
	undo, err := RenewHome(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{homeSettings, homeDir} {
		if _, err := os.Lstat(path(name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	fill(t, path(homeDir, "of the second run"), "x")
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if talk, err := os.ReadFile(path(homeDir, "projects", "p", "s.jsonl")); err != nil || string(talk) != "talk" {
		t.Errorf("%q, %v", talk, err)
	}
	if _, err := os.Lstat(path(homeDir, "of the second run")); err == nil {
		t.Error("the second run's directory is still there")
	}
	if left, err := filepath.Glob(path("*" + asideSuffix)); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	// An empty home stays empty.
	if err := os.RemoveAll(path(homeDir)); err != nil {
		t.Fatal(err)
	}
	if undo, err = RenewHome(root); err != nil || undo() != nil {
		t.Errorf("an empty home: %v", err)
	}
}
