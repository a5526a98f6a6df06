package history

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestRecordCountsChangedFiles(t *testing.T) {
	f := newFixture(t)
	path := func(name string) string { return filepath.Join(f.dir, name) }
	many := map[string]string{}
	for i := range 300 {
		many[fmt.Sprintf("assets/%d/%d.txt", i%7, i)] = fmt.Sprint(i)
	}
	for _, tt := range []struct {
		name    string
		change  func() error
		changed bool
		files   int
		empty   bool
	}{
		{"an empty project", func() error { return nil }, false, 0, true},
		{"only what no version has", func() error {
			return errors.Join(os.MkdirAll(path("empty/dir"), 0o755), syscall.Mkfifo(path("pipe"), 0o644), os.Mkdir(path(".git"), 0o755))
		}, false, 0, true},
		{"two files", func() error { f.write(t, map[string]string{"index.html": "a", "js/game.js": "b"}); return nil }, true, 2, false},
		{"nothing", func() error { return nil }, false, 0, false},
		{"the same content, written again", func() error { f.write(t, map[string]string{"index.html": "a"}); return nil }, false, 0, false},
		{"one changed, one new, one removed", func() error {
			f.write(t, map[string]string{"index.html": "c", "js/new.js": "d"})
			return os.Remove(path("js/game.js"))
		}, true, 3, false},
		{"a mode", func() error { return os.Chmod(path("index.html"), 0o755) }, true, 1, false},
		{"a file becomes a directory of two", func() error {
			err := os.Remove(path("js/new.js"))
			f.write(t, map[string]string{"js/new.js/1": "e", "js/new.js/2": "f"})
			return err
		}, true, 3, false},
		{"many", func() error { f.write(t, many); return nil }, true, 300, false},
		{"all removed", func() error {
			return errors.Join(os.RemoveAll(path("assets")), os.RemoveAll(path("js")), os.Remove(path("index.html")))
		}, true, 303, true},
		{"still nothing", func() error { return nil }, false, 0, true},
	} {
		if err := tt.change(); err != nil {
			t.Fatal(err)
		}
		made, err := f.store.Record(t.Context(), user, project, f.root, tt.name, when)
		if err != nil || made.Changed != tt.changed || made.Files != tt.files || made.Empty != tt.empty {
			t.Errorf("%s: %+v, %v", tt.name, made, err)
		}
	}
}
