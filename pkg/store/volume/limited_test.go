package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

const diskBytes = 32 << 20

func needDisks(t testing.TB) {
	t.Helper()
	_, err := os.Stat("/dev/loop-control")
	sandboxtest.Need(t, os.Geteuid() == 0 && err == nil, "root and loop devices")
	_, err = exec.LookPath("mkfs.ext4")
	sandboxtest.Need(t, err == nil, "mkfs.ext4 of e2fsprogs in PATH")
}

// newLimited opens a store with a disk limit. At the end of the test, none of its
// disks may be mounted.
func newLimited(t testing.TB) (*Store, string) {
	t.Helper()
	needDisks(t)
	state := t.TempDir()
	t.Cleanup(func() { wantNoMount(t, state) })
	s := openLimited(t, state, diskBytes)
	for _, name := range []string{Data, Global} {
		if _, err := s.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	return s, state
}

func openLimited(t testing.TB, state string, size int64) *Store {
	t.Helper()
	s, err := Open(filepath.Join(state, "volumes"), Options{UID: 12345, GID: 23456, DiskBytes: size, DiskIdle: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.disks.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return s
}

// wantNoMount waits until nothing is mounted below dir: the kernel frees a loop
// device some time after its last use, and another program may be reading it.
func wantNoMount(t testing.TB, dir string) {
	t.Helper()
	// A process of another test that copied the mount namespace keeps the mounts
	// until it ends.
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		left := mountsBelow(t, dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still mounted: %q", left)
		}
	}
}

// mountsBelow returns the mounts and loop devices of a directory.
func mountsBelow(t testing.TB, dir string) (left []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+dir+"/") {
			left = append(left, line)
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if text, _ := os.ReadFile(f); strings.HasPrefix(string(text), dir+"/") {
			left = append(left, string(text))
		}
	}
	return left
}

func imageOf(state string) string {
	return filepath.Join(state, "volumes", Data, disksDir, string(user)+".ext4")
}

func wantImage(t testing.TB, state string, want bool) {
	t.Helper()
	if _, err := os.Lstat(imageOf(state)); (err == nil) != want {
		t.Fatalf("image: %v, want one: %v", err, want)
	}
}

func open(t testing.TB, s *Store) (*Project, *Home) {
	t.Helper()
	p, err := s.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	h, err := s.Home(user, project)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return p, h
}

func fillUp(t testing.TB, path string) int {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 4096)
	for i := range chunk {
		chunk[i] = byte(i)
	}
	for n := 0; ; n++ {
		if _, err := f.Write(chunk); errors.Is(err, unix.ENOSPC) {
			return n * len(chunk)
		} else if err != nil || n > 1<<16 {
			t.Fatal(n, err)
		}
	}
}

func TestProjectsAndHomesOfAUserShareOneLimit(t *testing.T) {
	s, state := newLimited(t)
	p, h := open(t, s)
	top := filepath.Join(state, "volumes", Data, "users", string(user))
	if p.Path() != filepath.Join(top, "projects", string(project)) || h.Path() != filepath.Join(top, "homes", string(project)) {
		t.Fatal(p.Path(), h.Path())
	}
	for path, mode := range map[string]os.FileMode{p.Path(): 0o755, h.Path(): 0o700} {
		wantOwned(t, path, 12345, mode)
		for dir := filepath.Dir(path); dir != state; dir = filepath.Dir(dir) {
			wantOwned(t, dir, 0, 0o700)
		}
	}
	if n := fillUp(t, filepath.Join(h.Path(), "big")); n > diskBytes || n < diskBytes/2 {
		t.Fatalf("%d bytes fit", n)
	}
	if n := fillUp(t, filepath.Join(p.Path(), "big")); n > 64<<10 {
		t.Fatalf("%d bytes fit in addition to a full home", n)
	}
	// Another user has a separate limit.
	other, err := s.Project(dreamcore.NewUserID(), project)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	treetest.Write(t, other.Path(), map[string]string{"a": "text"})
}

func TestAFullProjectCanBeReadCommittedAndEmptied(t *testing.T) {
	s, state := newLimited(t)
	p, h := open(t, s)
	treetest.Write(t, p.Path(), map[string]string{"index.html": "<html>"})
	fillUp(t, filepath.Join(p.Path(), "big"))
	for i := range 100_000 { // until no inode is free either
		if err := os.Symlink(strings.Repeat("x", 10), filepath.Join(h.Path(), fmt.Sprint(i))); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			break
		}
	}
	if err := h.SetSession(uuid.NewString()); err != nil {
		t.Fatal(err)
	}
	_, err := s.Project(user, dreamcore.NewProjectID())
	wantError(t, err, dreamcore.CodeTooLarge, "the disk of the user is full")
	if hint := dreamcore.HintOf(err); !strings.Contains(hint, "disk_mib") {
		t.Fatalf("hint %q", hint)
	}
	again, err := s.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	f, _, err := again.Open("index.html")
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	f.Close()
	if err != nil || string(data) != "<html>" {
		t.Fatalf("%q, %v", data, err)
	}
	files := 0
	for _, err := range again.Files(t.Context()) {
		if files++; err != nil {
			t.Fatal(err)
		}
	}
	if files != 2 {
		t.Fatalf("%d files", files)
	}
	versions, err := history.Open(filepath.Join(state, "history"), history.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	hash, changed, err := versions.Commit(t.Context(), user, project, again.Root(), "full", time.Now())
	if err != nil || hash == "" || !changed {
		t.Fatalf("%q, %v, %v", hash, changed, err)
	}
	if err := again.Root().Remove("big"); err != nil {
		t.Fatal(err)
	}
	if err := again.Root().WriteFile("after", bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
		// The home uses all inodes.
		if !errors.Is(err, unix.ENOSPC) || os.Remove(filepath.Join(h.Path(), "0")) != nil {
			t.Fatal(err)
		}
		if err := again.Root().WriteFile("after", bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadingMakesNoImage(t *testing.T) {
	s, state := newLimited(t)
	_, err := s.Find(user, project)
	wantError(t, err, dreamcore.CodeNotFound, "Project not found")
	if entries, _ := os.ReadDir(filepath.Join(state, "volumes", Data)); len(entries) != 0 {
		t.Fatalf("Find made %v", entries)
	}
	before := openUnlimited(t, state)
	p, err := before.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	treetest.Write(t, p.Path(), map[string]string{"index.html": "old"})
	p.Close()
	found, err := s.Find(user, project)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := found.Root().ReadFile("index.html"); err != nil || string(data) != "old" {
		t.Fatalf("%q, %v", data, err)
	}
	found.Close()
	found.Close()
	wantImage(t, state, false)
	_, err = s.Find(user, dreamcore.NewProjectID())
	wantError(t, err, dreamcore.CodeNotFound, "Project not found")
	_, err = s.Find(dreamcore.NewUserID(), project)
	wantError(t, err, dreamcore.CodeNotFound, "Project not found")
}

func openUnlimited(t testing.TB, state string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(state, "volumes"), Options{UID: 12345, GID: 23456})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestTheFilesOfAnExistingUserAreMovedToTheDisk(t *testing.T) {
	s, state := newLimited(t)
	before := openUnlimited(t, state)
	p, h := open(t, before)
	treetest.Write(t, p.Path(), map[string]string{"index.html": "old", ".env": "kept"})
	treetest.Write(t, h.Path(), map[string]string{".claude/s.jsonl": "words"})
	session := uuid.NewString()
	if err := h.SetSession(session); err != nil {
		t.Fatal(err)
	}
	oldHome := h.Path()
	p.Close()
	h.Close()

	for _, store := range []*Store{s, openLimited(t, state, 2*diskBytes)} {
		p, h = open(t, store)
		if h.Path() == oldHome || !h.Has(".claude/s.jsonl") || h.Session() != session {
			t.Fatalf("home %s, session %q", h.Path(), h.Session())
		}
		for name, want := range map[string]string{"index.html": "old", ".env": "kept"} {
			if data, err := p.Root().ReadFile(name); err != nil || string(data) != want {
				t.Fatalf("%s: %q, %v", name, data, err)
			}
		}
		wantOwned(t, p.Path(), 12345, 0o755)
		wantOwned(t, h.Path(), 12345, 0o700)
		p.Close()
		h.Close()
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		if entries, _ := os.ReadDir(filepath.Join(state, "volumes", Data, "users", string(user))); len(entries) != 0 {
			t.Fatalf("still in the plain directory: %v", entries)
		}
		if _, err := os.Lstat(oldHome); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the old home: %v", err)
		}
	}
}

func TestAUserWithADiskIsRefusedWithoutALimit(t *testing.T) {
	s, state := newLimited(t)
	p, h := open(t, s)
	treetest.Write(t, p.Path(), map[string]string{"index.html": "kept"})
	p.Close()
	h.Close()
	off := openUnlimited(t, state)
	_, err := off.Project(user, project)
	wantError(t, err, dreamcore.CodeSetup, "turned off")
	_, err = off.Find(user, project)
	wantError(t, err, dreamcore.CodeSetup, "turned off")
	_, err = off.Home(user, project)
	wantError(t, err, dreamcore.CodeSetup, "turned off")
	_, err = off.User(t.Context(), user)
	wantError(t, err, dreamcore.CodeSetup, "turned off")
	if hint := dreamcore.HintOf(err); !strings.Contains(hint, "disk_mib") {
		t.Fatalf("hint %q", hint)
	}
	other, err := off.Project(dreamcore.NewUserID(), project)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
}

func TestOneSandboxCanMountAllDirectoriesOfAUser(t *testing.T) {
	for name, open := range map[string]func(testing.TB) (*Store, string){
		"limited": newLimited,
		"unlimited": func(t testing.TB) (*Store, string) {
			needDisks(t)
			s, state := newStore(t)
			return s, state
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := open(t)
			u, err := s.User(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			p, err := s.Project(user, project)
			if err != nil {
				t.Fatal(err)
			}
			h, err := s.Home(user, project)
			if err != nil {
				t.Fatal(err)
			}
			if p.Path() != filepath.Join(u.ProjectsPath(), string(project)) || h.Path() != filepath.Join(u.HomesPath(), string(project)) {
				t.Fatal(p.Path(), h.Path(), u)
			}
			p.Close()
			h.Close()
			// The sandbox's user can read both but not change them.
			for _, dir := range []string{u.ProjectsPath(), u.HomesPath()} {
				wantOwned(t, dir, 0, 0o755)
			}
			wantOwned(t, filepath.Dir(u.ProjectsPath()), 0, 0o700)
			treetest.Write(t, u.ProjectsPath(), map[string]string{string(project) + "/a": "usable until Close"})
			again, err := s.User(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := errors.Join(u.Close(), again.Close()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestALimitedStoreRefusesLinks(t *testing.T) {
	for _, depth := range []string{"users", "users/" + string(user), ".disks"} {
		s, state := newLimited(t)
		data := filepath.Join(state, "volumes", Data)
		elsewhere := filepath.Join(data, "elsewhere")
		os.MkdirAll(filepath.Join(elsewhere, "projects", string(project)), 0o755)
		place := filepath.Join(data, depth)
		os.MkdirAll(filepath.Dir(place), 0o700)
		if err := os.Symlink(elsewhere, place); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Project(user, project); err == nil || dreamcore.HintOf(err) == "" {
			t.Fatalf("%s: %v", depth, err)
		}
		if _, err := s.Find(user, project); err == nil || dreamcore.HintOf(err) == "" {
			t.Fatalf("%s: %v", depth, err)
		}
		if entries, _ := os.ReadDir(elsewhere); len(entries) != 1 {
			t.Fatalf("%s: a file was made through the link: %v", depth, entries)
		}
	}
}

func TestOpenProjectsOutliveTheStore(t *testing.T) {
	s, _ := newLimited(t)
	p, h := open(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Root().WriteFile("a", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Close()
	p.Close()
}

func TestATooSmallDiskLimitIsRefused(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "volumes"), Options{DiskBytes: 1})
	wantError(t, err, dreamcore.CodeInvalid, "too small")
}

func BenchmarkFindLimited(b *testing.B) {
	s, _ := newLimited(b)
	p, err := s.Project(user, project)
	if err != nil {
		b.Fatal(err)
	}
	p.Close()
	for b.Loop() {
		p, err := s.Find(user, project)
		if err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}
