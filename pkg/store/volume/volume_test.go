package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

const (
	user    = dreamcore.UserID("11111111-1111-4111-8111-111111111111")
	project = dreamcore.ProjectID("22222222-2222-4222-8222-222222222222")
)

func TestMain(m *testing.M) {
	holdLockForParent()
	goleak.VerifyTestMain(m)
}

// newStore opens a store in a new directory. The sandbox user is another user if
// the test may change owners.
func newStore(t testing.TB) (*Store, string) {
	t.Helper()
	state := t.TempDir()
	opts := Options{UID: os.Getuid(), GID: os.Getgid()}
	if os.Geteuid() == 0 {
		opts.UID, opts.GID = 12345, 23456
	}
	s, err := Open(filepath.Join(state, "volumes"), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, name := range []string{Data, Global} {
		if created, err := s.Create(name); err != nil || !created {
			t.Fatalf("create %s: %v, %v", name, created, err)
		}
	}
	return s, state
}

func newProject(t testing.TB) (*Project, *Store, string) {
	t.Helper()
	s, state := newStore(t)
	p, err := s.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, s, state
}

func wantError(t *testing.T, err error, code dreamcore.Code, message string) {
	t.Helper()
	if err == nil || dreamcore.CodeOf(err) != code || !strings.Contains(err.Error(), message) || dreamcore.HintOf(err) == "" {
		t.Fatalf("got %v (%s; hint %q), want %s %q", err, dreamcore.CodeOf(err), dreamcore.HintOf(err), code, message)
	}
}

// wantOwned checks owner and mode of a directory.
func wantOwned(t *testing.T, path string, uid int, mode fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != uid || info.Mode() != mode|fs.ModeDir {
		t.Fatalf("%s: uid %d, mode %v; want %d, %v", path, st.Uid, info.Mode(), uid, mode)
	}
}

func TestVolumesAreCreatedOnceAndListed(t *testing.T) {
	s, state := newStore(t)
	old := syscall.Umask(0o077)
	created, err := s.Create("assets-2")
	syscall.Umask(old)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	treetest.Write(t, filepath.Join(state, "volumes"), map[string]string{"a-file": "", "assets-2/kept": "x"})
	os.Mkdir(filepath.Join(state, "volumes", "NOT OURS"), 0o700)
	if created, err := s.Create("assets-2"); err != nil || created {
		t.Fatalf("again: %v, %v", created, err)
	}
	path, err := s.Path("assets-2")
	if err != nil || path != filepath.Join(state, "volumes", "assets-2") {
		t.Fatal(path, err)
	}
	if _, err := os.Stat(filepath.Join(path, "kept")); err != nil {
		t.Fatal(err)
	}
	infos, err := s.List()
	want := []Info{{"assets-2", path}, {Data, filepath.Join(state, "volumes", Data)}, {Global, filepath.Join(state, "volumes", Global)}}
	if err != nil || !slices.Equal(infos, want) {
		t.Fatalf("got %v, %v", infos, err)
	}
	wantOwned(t, path, os.Getuid(), 0o755)
	wantOwned(t, filepath.Join(state, "volumes", Data), os.Getuid(), 0o700)
	wantOwned(t, filepath.Join(state, "volumes"), os.Getuid(), 0o700)
}

func TestVolumeErrorsHaveHints(t *testing.T) {
	s, state := newStore(t)
	for _, name := range []string{"", "..", "a/b", "/etc", "A", "-a", ".a", "a\x00", strings.Repeat("a", 64)} {
		_, err := s.Create(name)
		wantError(t, err, dreamcore.CodeInvalid, "Invalid volume name")
		_, err = s.Path(name)
		wantError(t, err, dreamcore.CodeInvalid, "Invalid volume name")
	}
	_, err := s.Path("missing")
	wantError(t, err, dreamcore.CodeNotFound, "no volume missing")
	os.Symlink(t.TempDir(), filepath.Join(state, "volumes", "link"))
	_, err = s.Path("link")
	wantError(t, err, dreamcore.CodeSetup, "open volume link")
	treetest.Write(t, filepath.Join(state, "volumes"), map[string]string{"file": ""})
	_, err = s.Create("file")
	wantError(t, err, dreamcore.CodeSetup, "open volume file")
	os.RemoveAll(filepath.Join(state, "volumes", Data))
	_, err = s.Project(user, project)
	wantError(t, err, dreamcore.CodeNotFound, Data)
	if reason := dreamcore.ReasonOf(err); reason != ReasonNotSetUp {
		t.Fatalf("reason %q", reason)
	}
	_, err = Open(filepath.Join(state, "volumes", "file", "x"), Options{})
	wantError(t, err, dreamcore.CodeInternal, "open")
}

func TestOnlyTheProjectItselfIsOwnedByTheSandboxUser(t *testing.T) {
	p, s, state := newProject(t)
	data := filepath.Join(state, "volumes", Data)
	want := filepath.Join(data, "users", string(user), "projects", string(project))
	if p.Path() != want {
		t.Fatalf("path %s", p.Path())
	}
	wantOwned(t, want, s.opts.UID, 0o755)
	for dir := filepath.Dir(want); dir != state; dir = filepath.Dir(dir) {
		wantOwned(t, dir, os.Getuid(), 0o700)
	}
	treetest.Write(t, want, map[string]string{"index.html": "kept"})
	os.Chmod(want, 0o700|fs.ModeSetgid|fs.ModeSticky)
	if os.Geteuid() == 0 {
		os.Chown(want, 1, 1)
	}
	again, err := s.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	wantOwned(t, want, s.opts.UID, 0o755)
	if data, err := again.Root().ReadFile("index.html"); err != nil || string(data) != "kept" {
		t.Fatalf("%q, %v", data, err)
	}
}

func TestFindOpensExistingProjectsOnly(t *testing.T) {
	s, state := newStore(t)
	_, err := s.Find(user, project)
	wantError(t, err, dreamcore.CodeNotFound, "Project not found")
	if entries, _ := os.ReadDir(filepath.Join(state, "volumes", Data)); len(entries) != 0 {
		t.Fatalf("Find made %v", entries)
	}
	p, err := s.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	_, err = s.Find(user, dreamcore.NewProjectID())
	wantError(t, err, dreamcore.CodeNotFound, "Project not found")
	found, err := s.Find(user, project)
	if err != nil || found.Path() != p.Path() {
		t.Fatal(found, err)
	}
	found.Close()
}

func TestLinksAsParentsAreRefused(t *testing.T) {
	for _, depth := range []string{"users", "users/" + string(user), "users/" + string(user) + "/projects", "users/" + string(user) + "/projects/" + string(project)} {
		s, state := newStore(t)
		data := filepath.Join(state, "volumes", Data)
		os.MkdirAll(filepath.Join(data, "elsewhere"), 0o755)
		place := filepath.Join(data, depth)
		os.MkdirAll(filepath.Dir(place), 0o755)
		if err := os.Symlink(filepath.Join(data, "elsewhere"), place); err != nil {
			t.Fatal(err)
		}
		_, err := s.Project(user, project)
		wantError(t, err, dreamcore.CodeSetup, "prepare the project")
		_, err = s.Find(user, project)
		wantError(t, err, dreamcore.CodeSetup, "open the project")
		if entries, _ := os.ReadDir(filepath.Join(data, "elsewhere")); len(entries) != 0 {
			t.Fatalf("%s: a file was made through the link: %v", depth, entries)
		}
	}
}

func TestTheConversationOfAHomeIsNotedOutsideOfTheSandbox(t *testing.T) {
	s, state := newStore(t)
	h, err := s.Home(user, project)
	if err != nil {
		t.Fatal(err)
	}
	if h.Path() != filepath.Join(state, "homes", string(user), string(project)) {
		t.Fatalf("path %s", h.Path())
	}
	wantOwned(t, h.Path(), s.opts.UID, 0o700)
	wantOwned(t, filepath.Dir(h.Path()), os.Getuid(), 0o700)
	if got := h.Session(); got != "" {
		t.Fatalf("a new home has the conversation %q", got)
	}
	first, second := uuid.NewString(), uuid.NewString()
	for _, id := range []string{first, second} {
		if err := h.SetSession(id); err != nil {
			t.Fatal(err)
		}
		again, _ := s.Home(user, project)
		if got := again.Session(); got != id {
			t.Fatalf("got %q, want %q", got, id)
		}
	}
	if err := h.SetSession("../x"); err == nil || h.Session() != second {
		t.Fatalf("an invalid id: %v", err)
	}
	if entries, _ := os.ReadDir(h.Path()); len(entries) != 0 {
		t.Fatalf("the sandbox sees %v", entries)
	}
	if entries, _ := os.ReadDir(filepath.Dir(h.Path())); len(entries) != 2 {
		t.Fatalf("residue: %v", entries)
	}
	for range 2 {
		if err := h.SetSession(""); err != nil || h.Session() != "" {
			t.Fatalf("forgetting: %v", err)
		}
	}
	os.WriteFile(h.Path()+sessionExtension, []byte("junk"), 0o600)
	if got := h.Session(); got != "" {
		t.Fatalf("a damaged note gives %q", got)
	}
}

func TestHomeHasOnlyRegularFiles(t *testing.T) {
	s, _ := newStore(t)
	h, _ := s.Home(user, project)
	treetest.Write(t, h.Path(), map[string]string{".claude/projects/-data/a.jsonl": "{}"})
	os.Symlink("a.jsonl", filepath.Join(h.Path(), ".claude/projects/-data/link.jsonl"))
	os.Symlink(".claude", filepath.Join(h.Path(), "claude"))
	treetest.Write(t, filepath.Dir(h.Path()), map[string]string{"outside": ""})
	for name, want := range map[string]bool{
		".claude/projects/-data/a.jsonl": true, ".claude/projects/-data/b.jsonl": false, ".claude/projects/-data/link.jsonl": false,
		"claude/projects/-data/a.jsonl": false, ".claude": false, "../outside": false, "": false,
	} {
		if got := h.Has(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestScratchDirectoriesAreMadeAndRemoved(t *testing.T) {
	s, state := newStore(t)
	id := uuid.NewString()
	path, remove, err := s.Scratch(id)
	if err != nil {
		t.Fatal(err)
	}
	wantOwned(t, path, s.opts.UID, 0o755)
	if !strings.HasPrefix(path, filepath.Join(state, "volumes", Data)+"/") {
		t.Fatalf("%s is not in the data volume", path)
	}
	treetest.Write(t, path, map[string]string{"a/b/c": "x"})
	os.Symlink(state, filepath.Join(path, "link"))
	_, _, err = s.Scratch(id)
	wantError(t, err, dreamcore.CodeConflict, "exists already")
	_, _, err = s.Scratch("../x")
	wantError(t, err, dreamcore.CodeInvalid, "Invalid id")
	other, removeOther, err := s.Scratch(uuid.NewString())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := remove(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("it still exists: %v", err)
	}
	if _, err := os.Stat(filepath.Join(state, "homes")); err != nil {
		t.Fatalf("removing followed a link: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Fatal(err)
	}
	removeOther()
}

func TestOldScratchDirectoriesAreSwept(t *testing.T) {
	s, _ := newStore(t)
	path, _, err := s.Scratch(uuid.NewString())
	if err != nil {
		t.Fatal(err)
	}
	os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)) // as a sandbox could
	checks, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer checks.Close()
	if err := sweep(checks, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("a new directory was removed: %v", err)
	}
	if err := sweep(checks, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an old directory still exists: %v", err)
	}
}
