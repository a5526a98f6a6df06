package project

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

const (
	testUser    dreamcore.UserID    = "11111111-1111-4111-8111-111111111111"
	testProject dreamcore.ProjectID = "33333333-3333-4333-8333-333333333333"
)

// newDesk returns a desk with the project's directory and the state's.
func newDesk(t *testing.T) (d *Desk, project, state string) {
	t.Helper()
	state = t.TempDir()
	d = newDeskIn(t, state)
	t.Cleanup(func() { _ = d.volumes.Close() })
	return d, filepath.Join(state, "volumes", volume.Data, "users", string(testUser), "projects", string(testProject)), state
}

// newDeskIn returns a desk whose volumes the caller closes.
func newDeskIn(t *testing.T, state string) *Desk {
	t.Helper()
	volumes, err := volume.Open(filepath.Join(state, "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := volumes.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	versions, err := history.Open(filepath.Join(state, "history"), history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return New(volumes, versions)
}

// TestAChangeUsesTheSpaceThatIsSetAsideForItsVersion has another program that
// fills the disk once the change has begun.
func TestAChangeUsesTheSpaceThatIsSetAsideForItsVersion(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	state := t.TempDir()
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(state, 0); err != nil {
			t.Error(err)
		}
	})
	d := newDeskIn(t, state)
	defer d.volumes.Close()
	text := make([]byte, 1<<20)
	_, _ = rand.Read(text) // its version is as large
	other, err := os.Create(filepath.Join(state, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	full := func(w io.Writer) error {
		if _, err := w.Write(text); err != nil {
			return err
		}
		var st syscall.Statfs_t
		if err := syscall.Statfs(state, &st); err != nil {
			return err
		}
		return syscall.Fallocate(int(other.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-256<<10)
	}
	unlock, err := d.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := d.Apply(t.Context(), testUser, testProject, []volume.Change{{Path: "a.bin", Write: full}}, "x"); err != nil {
		t.Error(err)
	}
}

func (d *Desk) put(t *testing.T, files ...string) error {
	t.Helper()
	var changes []volume.Change
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		changes = append(changes, volume.Change{Path: name, Write: volume.Content(text)})
	}
	unlock, err := d.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	_, err = d.Apply(t.Context(), testUser, testProject, changes, strings.Join(files, " "))
	return err
}

func TestLockWaitsForAnother(t *testing.T) {
	d, _, _ := newDesk(t)
	unlock, err := d.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	locked := make(chan error, 1)
	go func() {
		unlock, err := d.Lock(t.Context(), testUser, testProject)
		if err == nil {
			unlock()
		}
		locked <- err
	}()
	select {
	case err := <-locked:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
		unlock()
		if err := <-locked; err != nil {
			t.Error(err)
		}
	}
}

// messages are those of the versions, the newest first.
func (d *Desk) messages(t *testing.T) string {
	t.Helper()
	versions, _, err := d.Log(t.Context(), testUser, testProject, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, v := range versions {
		all = append(all, v.Message)
	}
	return strings.Join(all, "; ")
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(entries)
}

func TestRemoveIsAVersionThatCanBeUndone(t *testing.T) {
	d, project, _ := newDesk(t)
	if err := d.put(t, "index.html=1", "a/b/c.js=2", "a/d.js=3"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		all  bool
		code dreamcore.Code
	}{
		{"a", false, dreamcore.CodeInvalid},
		{"no", false, dreamcore.CodeNotFound},
		{"../" + string(testProject) + "/a", true, dreamcore.CodeInvalid},
		{".", true, dreamcore.CodeInvalid},
	} {
		if err := d.Remove(t.Context(), testUser, testProject, c.name, c.all); dreamcore.CodeOf(err) != c.code {
			t.Errorf("%q: %v", c.name, err)
		}
	}
	if got := d.messages(t); strings.Contains(got, "Remove") {
		t.Errorf("a version of what was not removed: %s", got)
	}
	if err := d.Remove(t.Context(), testUser, testProject, "a/b", true); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(t.Context(), testUser, testProject, "index.html", false); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Join(project, "a")); got != "[- d.js]" {
		t.Error(got)
	}
	if got := d.messages(t); !strings.HasPrefix(got, "Remove index.html; Remove a/b; ") {
		t.Error(got)
	}
	versions, _, err := d.Log(t.Context(), testUser, testProject, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Restore(t.Context(), testUser, testProject, versions[2].Hash); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(project, "a/b/c.js")); err != nil || string(raw) != "2" {
		t.Errorf("%q %v", raw, err)
	}
}

// TestAChangeWithoutItsVersionIsUndone is about both halves of a change: what
// cannot be saved is not made, and what is not made is not saved.
func TestAChangeWithoutItsVersionIsUndone(t *testing.T) {
	d, project, state := newDesk(t)
	if err := d.put(t, "index.html=old"); err != nil {
		t.Fatal(err)
	}
	before := d.messages(t)
	head := filepath.Join(state, "history", string(testUser), string(testProject)+".git", "refs/heads/main")
	saved, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	// The history breaks between the version of what is there and that of the
	// change.
	unlock, err := d.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	changes := []volume.Change{{Path: "index.html", Write: func(w io.Writer) error {
		_, err := io.WriteString(w, "new")
		return errors.Join(err, os.WriteFile(head, nil, 0o600))
	}}}
	_, err = d.Apply(t.Context(), testUser, testProject, changes, "new")
	unlock()
	if err == nil {
		t.Fatal("a broken history took a version")
	}
	if raw, err := os.ReadFile(filepath.Join(project, "index.html")); err != nil || string(raw) != "old" {
		t.Errorf("%q %v", raw, err)
	}
	if err := os.WriteFile(head, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := d.messages(t); got != before {
		t.Error(got)
	}
}

// TestRecoverAfterAKill has what a kill leaves after a change and before its
// version, and before the change.
func TestRecoverAfterAKill(t *testing.T) {
	d, project, state := newDesk(t)
	if err := d.put(t, "index.html=old"); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(state, "volumes", volume.Data)
	staging := filepath.Join(data, "users", string(testUser), "staging")
	mark := filepath.Join(data, ".changes", string(testUser)+"."+string(testProject))
	leave := func(text string) {
		t.Helper()
		for _, dir := range []string{string(testProject), "removed-x"} {
			if err := os.MkdirAll(filepath.Join(staging, dir, "deep"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(os.WriteFile(mark, nil, 0o600), os.WriteFile(filepath.Join(project, "index.html"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	leave("new")
	unlock, err := d.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, staging); got == "[]" {
		t.Error("what is in use was swept")
	}
	unlock()
	for _, want := range []string{"After an interrupted change; index.html=old", "After an interrupted change; index.html=old"} {
		if err := d.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := d.messages(t); got != want {
			t.Error(got)
		}
		if got := names(t, staging) + names(t, filepath.Dir(mark)); got != "[][]" {
			t.Error("left: ", got)
		}
		leave("new") // once more, and nothing to catch up with
	}
	other := strings.Replace(mark, string(testUser), "22222222-2222-4222-8222-222222222222", 1)
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Dir(mark)); got != "[]" {
		t.Error("the mark of a user who has nothing: ", got)
	}
}
