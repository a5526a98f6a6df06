package project

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

// TestFilesCanBeRemovedFromAFullDisk: a change that only removes files needs no
// space.
func TestFilesCanBeRemovedFromAFullDisk(t *testing.T) {
	p, s := newLimited(t, volume.Options{})
	treetest.Write(t, p.Path(), map[string]string{"a/one": "1", "a/two": "2", "b/c/three": "3", "index.html": "i"})
	fillUp(t, filepath.Join(p.Path(), "fill"))
	fillUp(t, filepath.Join(p.Path(), "rest"))
	seen := ""
	apply := func(check func(*os.Root) error, changes ...Change) error {
		t.Helper()
		_, err := apply(t.Context(), s, testUser, testProject, changes, check, func(root *os.Root) error {
			raw, err := root.ReadFile("index.html")
			seen = string(raw)
			return err
		})
		return err
	}
	large := make([]byte, 1<<20)
	wantError(t, apply(noHook, Change{Path: "new", Write: Text(string(large))}), dreamcore.CodeTooLarge, "the disk of the user is full")
	wantError(t, apply(noHook, Change{Path: "a/one"}, Change{Path: "b/c"}), dreamcore.CodeInvalid, "Invalid file path")
	if got := treetest.Contents(t, p.Path()); got["a/one"] != "1" {
		t.Error("only some of the files were removed")
	}
	if err := apply(noHook, Change{Path: "a/one"}, Change{Path: "no/such"}, Change{Path: "b/c/three"}); err != nil || seen != "i" {
		t.Fatal(seen, err)
	}
	if err := apply(func(root *os.Root) error { return tree.Remove(root, "fill", false) }); err != nil {
		t.Fatal(err)
	}
	if err := apply(noHook, Change{Path: "new", Write: Text(string(large))}); err != nil {
		t.Error(err)
	}
	got := treetest.Contents(t, filepath.Join(p.Path(), "..", string(testProject)))
	if len(got) != 4 || got["a/two"] != "2" || got["index.html"] != "i" || len(got["new"]) != len(large) {
		t.Errorf("%d files", len(got))
	}
	if left, err := s.Unfinished(); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}

// TestAChangeDuringAJobInAnotherProject: the guard of the job holds all free
// space of the user. The change must neither fail for that nor stop the job.
func TestAChangeDuringAJobInAnotherProject(t *testing.T) {
	const projectBytes = 8 << 20
	p, s := newLimited(t, volume.Options{ProjectBytes: projectBytes, ProjectFiles: 300})
	treetest.Write(t, p.Path(), map[string]string{"game": strings.Repeat("x", projectBytes-1<<20)})
	for i := range 250 {
		treetest.Write(t, p.Path(), map[string]string{fmt.Sprint("n", i): ""})
	}
	g, err := s.Guard(t.Context(), testUser, p) // leaves 2 MiB and 100 files to the job
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	check := func() volume.Full {
		t.Helper()
		f, err := g.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const other dreamcore.ProjectID = "44444444-4444-4444-8444-444444444444"
	apply := func(changes ...Change) error {
		t.Helper()
		_, err := apply(t.Context(), s, testUser, other, changes, noHook, noHook)
		return err
	}
	if err := apply(Change{Path: "large", Write: Text(strings.Repeat("y", 4<<20))}); err != nil {
		t.Fatal(err)
	}
	var many []Change
	for i := range 145 { // and as many directories
		many = append(many, Change{Path: fmt.Sprintf("d%d/f%d", i, i), Write: Text("")})
	}
	if err := apply(many...); err != nil {
		t.Fatal(err)
	}
	if f := check(); f.Any() {
		t.Errorf("files of another project stop the job: %+v", f)
	}
	if err := apply(Change{Path: "large", Write: Text(strings.Repeat("z", 16<<20))}); dreamcore.CodeOf(err) != dreamcore.CodeTooLarge {
		t.Error("a change beyond the limits of the user and the project: ", err)
	}
	if wrote := fillUp(t, filepath.Join(p.Path(), "more")); wrote < 1<<20 || wrote > 3<<20 {
		t.Errorf("the job wrote %d bytes, want about 2 MiB", wrote)
	}
	if f := check(); !f.Bytes || !f.Enforced {
		t.Errorf("%+v", f)
	}
}
