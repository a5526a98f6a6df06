package volume

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// TestAFullDiskCanBeEmptied: what removes files needs no space.
func TestAFullDiskCanBeEmptied(t *testing.T) {
	s, _ := newBounded(t)
	p, h := open(t, s)
	defer p.Close()
	defer h.Close()
	write(t, p.Path(), map[string]string{"a/one": "1", "a/two": "2", "b/c/three": "3", "index.html": "i"})
	fillUp(t, filepath.Join(p.Path(), "fill"))
	fillUp(t, filepath.Join(p.Path(), "rest"))
	seen := ""
	apply := func(check func(*os.Root) error, changes ...Change) error {
		t.Helper()
		_, err := s.Apply(t.Context(), user, project, changes, check, func(root *os.Root) error {
			raw, err := root.ReadFile("index.html")
			seen = string(raw)
			return err
		})
		return err
	}
	large := make([]byte, 1<<20)
	wantError(t, apply(nil, Change{Path: "new", Write: Content(string(large))}), dreamcore.CodeTooLarge, "the disk of the user is full")
	wantError(t, apply(nil, Change{Path: "a/one"}, Change{Path: "b/c"}), dreamcore.CodeInvalid, "Invalid file path")
	if got := contents(t, p.Path()); got["a/one"] != "1" {
		t.Error("half of it was removed")
	}
	if err := apply(nil, Change{Path: "a/one"}, Change{Path: "no/such"}, Change{Path: "b/c/three"}); err != nil || seen != "i" {
		t.Fatal(seen, err)
	}
	if err := apply(func(root *os.Root) error { return Remove(root, "fill", false) }); err != nil {
		t.Fatal(err)
	}
	if err := apply(nil, Change{Path: "new", Write: Content(string(large))}); err != nil {
		t.Error(err)
	}
	got := contents(t, filepath.Join(p.Path(), "..", string(project)))
	if len(got) != 4 || got["a/two"] != "2" || got["index.html"] != "i" || len(got["new"]) != len(large) {
		t.Errorf("%d files", len(got))
	}
	if left, err := s.Unfinished(); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}
