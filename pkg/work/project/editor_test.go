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

// newEditor returns an Editor, the directory of the test project and the state
// directory.
func newEditor(t *testing.T) (e *Editor, project, state string) {
	t.Helper()
	state = t.TempDir()
	e = openEditor(t, state)
	t.Cleanup(func() { _ = e.volumes.Close() })
	return e, filepath.Join(state, "volumes", volume.Data, "users", string(testUser), "projects", string(testProject)), state
}

// openEditor returns an Editor whose volumes the caller must close.
func openEditor(t *testing.T, state string) *Editor {
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

// TestAChangeUsesTheSpaceReservedForItsVersion: another program fills the disk
// once the change has begun.
func TestAChangeUsesTheSpaceReservedForItsVersion(t *testing.T) {
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
	e := openEditor(t, state)
	defer e.volumes.Close()
	text := make([]byte, 1<<20)
	_, _ = rand.Read(text) // incompressible, so the version is as large
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
	unlock, err := e.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := e.Apply(t.Context(), testUser, testProject, []Change{{Path: "a.bin", Write: full}}, "x"); err != nil {
		t.Error(err)
	}
}

func (e *Editor) put(t *testing.T, files ...string) error {
	t.Helper()
	var changes []Change
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		changes = append(changes, Change{Path: name, Write: Text(text)})
	}
	unlock, err := e.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	_, err = e.Apply(t.Context(), testUser, testProject, changes, strings.Join(files, " "))
	return err
}

func TestLockWaitsForAnotherHolder(t *testing.T) {
	e, _, _ := newEditor(t)
	unlock, err := e.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	locked := make(chan error, 1)
	go func() {
		unlock, err := e.Lock(t.Context(), testUser, testProject)
		if err == nil {
			unlock()
		}
		locked <- err
	}()
	select {
	case err := <-locked:
		t.Errorf("Lock did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
		unlock()
		if err := <-locked; err != nil {
			t.Error(err)
		}
	}
}

// messages returns the messages of the versions, the newest first.
func (e *Editor) messages(t *testing.T) string {
	t.Helper()
	versions, _, err := e.Log(t.Context(), testUser, testProject, 0)
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
	e, project, _ := newEditor(t)
	if err := e.put(t, "index.html=1", "a/b/c.js=2", "a/d.js=3"); err != nil {
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
		if err := e.Remove(t.Context(), testUser, testProject, c.name, c.all); dreamcore.CodeOf(err) != c.code {
			t.Errorf("%q: %v", c.name, err)
		}
	}
	if got := e.messages(t); strings.Contains(got, "Remove") {
		t.Errorf("a version of a failed removal: %s", got)
	}
	if err := e.Remove(t.Context(), testUser, testProject, "a/b", true); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(t.Context(), testUser, testProject, "index.html", false); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Join(project, "a")); got != "[- d.js]" {
		t.Error(got)
	}
	if got := e.messages(t); !strings.HasPrefix(got, "Remove index.html; Remove a/b; ") {
		t.Error(got)
	}
	versions, _, err := e.Log(t.Context(), testUser, testProject, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Restore(t.Context(), testUser, testProject, versions[2].Hash); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(project, "a/b/c.js")); err != nil || string(raw) != "2" {
		t.Errorf("%q %v", raw, err)
	}
}

// TestAChangeWithoutItsVersionIsUndone: a change whose version cannot be made is
// undone, and a change that fails makes no version.
func TestAChangeWithoutItsVersionIsUndone(t *testing.T) {
	e, project, state := newEditor(t)
	if err := e.put(t, "index.html=old"); err != nil {
		t.Fatal(err)
	}
	before := e.messages(t)
	head := filepath.Join(state, "history", string(testUser), string(testProject)+".git", "refs/heads/main")
	saved, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	// The history breaks between the version of the old state and that of the
	// new one.
	unlock, err := e.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	changes := []Change{{Path: "index.html", Write: func(w io.Writer) error {
		_, err := io.WriteString(w, "new")
		return errors.Join(err, os.WriteFile(head, nil, 0o600))
	}}}
	_, err = e.Apply(t.Context(), testUser, testProject, changes, "new")
	unlock()
	if err == nil {
		t.Fatal("a broken history accepted a version")
	}
	if raw, err := os.ReadFile(filepath.Join(project, "index.html")); err != nil || string(raw) != "old" {
		t.Errorf("%q %v", raw, err)
	}
	if err := os.WriteFile(head, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := e.messages(t); got != before {
		t.Error(got)
	}
}

// TestRecoverAfterAKill recovers the residue of a kill between a change and its
// version, and of one before the change.
func TestRecoverAfterAKill(t *testing.T) {
	e, project, state := newEditor(t)
	if err := e.put(t, "index.html=old"); err != nil {
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
	unlock, err := e.Lock(t.Context(), testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, staging); got == "[]" {
		t.Error("Recover removed the staging directory of a locked project")
	}
	unlock()
	for _, want := range []string{"After an interrupted change; index.html=old", "After an interrupted change; index.html=old"} {
		if err := e.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := e.messages(t); got != want {
			t.Error(got)
		}
		if got := names(t, staging) + names(t, filepath.Dir(mark)); got != "[][]" {
			t.Error("residue: ", got)
		}
		leave("new") // again, but without a missing version
	}
	other := strings.Replace(mark, string(testUser), "22222222-2222-4222-8222-222222222222", 1)
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Dir(mark)); got != "[]" {
		t.Error("the mark of a user without files: ", got)
	}
}
