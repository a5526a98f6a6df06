package volume

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

// inHome lists everything in a directory, without the directory itself.
func inHome(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

const (
	keptDir  = ".claude/projects/-data-users-u-projects-p"
	keptFile = keptDir + "/a.jsonl"
)

func TestCleanKeepsOnlyTheConversation(t *testing.T) {
	s, _ := newStore(t)
	h, err := s.Home(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := os.MkdirAll(filepath.Join(h.Path(), keptDir), 0o777); err != nil {
		t.Fatal(err)
	}
	treetest.Write(t, h.Path(), map[string]string{
		".bashrc": "echo mine", ".profile": "x", ".claude.json": "{}", ".claude/settings.json": "{}", "bin/sh": "x",
		keptFile: "the conversation", keptDir + "/b.jsonl": "another one", keptDir + "/a/tool-results/x": "x",
	})
	if err := os.Chmod(filepath.Join(h.Path(), keptFile), 0o777|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(h.Path(), "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(h.Path(), "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	deep := h.Path()
	for range 60 {
		deep = filepath.Join(deep, "d")
		if err := os.Mkdir(deep, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second call has nothing to do
		if err := h.Clean(t.Context(), keptFile); err != nil {
			t.Fatal(err)
		}
		want := []string{".claude", ".claude/projects", keptDir, keptFile}
		if got := inHome(t, h.Path()); !slices.Equal(got, want) {
			t.Fatalf("in the home: %q", got)
		}
	}
	wantOwned(t, h.Path(), s.opts.UID, 0o700)
	wantOwned(t, filepath.Join(h.Path(), ".claude"), s.opts.UID, 0o700)
	info, err := os.Lstat(filepath.Join(h.Path(), keptFile))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != s.opts.UID || int(st.Gid) != s.opts.GID || info.Mode() != 0o600 {
		t.Errorf("the conversation: owner %d:%d, mode %v", st.Uid, st.Gid, info.Mode())
	}
	if b, err := os.ReadFile(filepath.Join(h.Path(), keptFile)); err != nil || string(b) != "the conversation" {
		t.Errorf("the conversation: %q, %v", b, err)
	}
	if !h.Has(keptFile) {
		t.Error("the home does not have its own file")
	}
	if got := inHome(t, filepath.Dir(h.Path())); !slices.Equal(got[:1], []string{string(project)}) || slices.ContainsFunc(got, func(n string) bool { return strings.HasPrefix(n, "removed-") }) {
		t.Errorf("next to the home: %q", got)
	}
	if err := h.Clean(t.Context(), ""); err != nil || len(inHome(t, h.Path())) > 0 {
		t.Errorf("without a conversation: %v, %q", err, inHome(t, h.Path()))
	}
}

func TestCleanKeepsNoLinkAndNoSpecialFile(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	tests := map[string]func(t *testing.T, at string) error{
		"a link": func(t *testing.T, at string) error { return os.Symlink(outside, at) },
		"a second name of a file": func(t *testing.T, at string) error {
			if err := os.WriteFile(filepath.Join(filepath.Dir(at), "first"), []byte("x"), 0o644); err != nil {
				return err
			}
			return os.Link(filepath.Join(filepath.Dir(at), "first"), at)
		},
		"a directory": func(t *testing.T, at string) error { return os.MkdirAll(filepath.Join(at, "in it"), 0o755) },
		"a pipe":      func(t *testing.T, at string) error { return unix.Mkfifo(at, 0o666) },
		"a directory of links": func(t *testing.T, at string) error {
			if err := os.Remove(filepath.Dir(at)); err != nil {
				return err
			}
			return os.Symlink(filepath.Dir(outside), filepath.Dir(at))
		},
		"nothing": func(t *testing.T, at string) error { return nil },
		"a file instead of a directory": func(t *testing.T, at string) error {
			if err := os.Remove(filepath.Dir(at)); err != nil {
				return err
			}
			return os.WriteFile(filepath.Dir(at), nil, 0o644)
		},
	}
	for name, put := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(outside, []byte("of the host"), 0o640); err != nil {
				t.Fatal(err)
			}
			treetest.Write(t, filepath.Dir(outside), map[string]string{"a.jsonl": "of the host"})
			s, _ := newStore(t)
			h, err := s.Home(user, project)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if err := os.MkdirAll(filepath.Join(h.Path(), keptDir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := put(t, filepath.Join(h.Path(), keptFile)); err != nil {
				t.Fatal(err)
			}
			if err := h.Clean(t.Context(), keptFile); err != nil {
				t.Fatal(err)
			}
			if got := inHome(t, h.Path()); len(got) > 0 {
				t.Errorf("kept: %q", got)
			}
			for _, file := range []string{outside, filepath.Join(filepath.Dir(outside), "a.jsonl")} {
				if b, err := os.ReadFile(file); err != nil || string(b) != "of the host" {
					t.Errorf("%s: %q, %v", file, b, err)
				}
			}
			if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("the mode of a file of the host: %v, %v", info, err)
			}
		})
	}
}

// The project uses the space, so cleaning the home frees almost nothing.
func TestAHomeIsCleanedOnADiskThatAProjectFills(t *testing.T) {
	s, _ := newLimited(t)
	h, err := s.Home(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	p, err := s.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := os.MkdirAll(filepath.Join(h.Path(), keptDir), 0o755); err != nil {
		t.Fatal(err)
	}
	treetest.Write(t, h.Path(), map[string]string{keptFile: "the conversation", ".bashrc": "echo"})
	f, err := os.Create(filepath.Join(p.Path(), "big"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := bytes.Repeat([]byte("x"), 64<<10); len(chunk) > 0; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := h.Clean(t.Context(), keptFile); err != nil {
			t.Fatal(err)
		}
	}
	if got := inHome(t, h.Path()); slices.Contains(got, ".bashrc") {
		t.Errorf("in the home: %q", got)
	}
}

func TestAHomeThatFillsTheDiskIsCleaned(t *testing.T) {
	s, _ := newLimited(t)
	h, err := s.Home(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := os.MkdirAll(filepath.Join(h.Path(), keptDir), 0o755); err != nil {
		t.Fatal(err)
	}
	treetest.Write(t, h.Path(), map[string]string{keptFile: "the conversation"})
	f, err := os.Create(filepath.Join(h.Path(), ".cache"))
	if err != nil {
		t.Fatal(err)
	}
	zeros := bytes.Repeat([]byte("x"), 4096)
	for err == nil {
		_, err = f.Write(zeros)
	}
	if cerr := f.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	if pe, ok := err.(*fs.PathError); !ok || pe.Err != syscall.ENOSPC {
		t.Fatalf("the disk is not full: %v", err)
	}
	if err := h.Clean(t.Context(), keptFile); err != nil {
		t.Fatal(err)
	}
	if got := inHome(t, h.Path()); !slices.Contains(got, keptFile) || slices.Contains(got, ".cache") {
		t.Errorf("in the home: %q", got)
	}
}
