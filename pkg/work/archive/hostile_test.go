package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// makeLongPath makes a file in dir whose path exceeds the limit.
func makeLongPath(t *testing.T, dir string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 25 {
		name := strings.Repeat("d", 200)
		if err := root.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := root.OpenRoot(name)
		root.Close()
		if err != nil {
			t.Fatal(err)
		}
		root = next
	}
	defer root.Close()
	if err := root.WriteFile("deep.js", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestOneHostileProjectDoesNotStopTheOthers: one project has a path that only a
// tar can hold.
func TestOneHostileProjectDoesNotStopTheOthers(t *testing.T) {
	old, _ := oldTree(t, 3)
	makeLongPath(t, filepath.Join(old, projectPath(alice, 0)))
	r := newRig(t)
	report, err := r.Import(t.Context(), old, ImportOptions{})
	wantStates(t, report, err, Copied, Copied, Copied)
	if notes := fmt.Sprint(report.Projects[0].Notes); !strings.Contains(notes, "too long") || len(notes) > 8000 {
		t.Errorf("%.500s", notes)
	}
	makeLongPath(t, r.path(projectPath(alice, 2)))
	for _, dest := range []string{"all", "all.tar"} {
		out := filepath.Join(t.TempDir(), dest)
		report, err = r.Export(t.Context(), Scope{}, out, false)
		wantStates(t, report, err, Copied, Copied, Copied)
		if n := report.Projects[0].Versions; n != 2 {
			t.Errorf("%d versions", n)
		}
		to := newRig(t)
		report, err = to.Import(t.Context(), out, ImportOptions{})
		wantStates(t, report, err, Copied, Copied, Copied)
	}
}

// TestAProjectThatCannotBeUnpackedFails: the project must be in the report, and so
// in the exit code, and not only in a note.
func TestAProjectThatCannotBeUnpackedFails(t *testing.T) {
	in := &importer{report: &Report{}, opts: ImportOptions{Users: map[dreamcore.UserID]dreamcore.UserID{alice: bob}}}
	u := &unpacker{in: in, ctx: t.Context(), spool: t.TempDir(), seen: map[ref]bool{}}
	r := ref{alice, dreamcore.ProjectID(projectID(0))}
	if err := u.put(r, "a", tree.Entry{Mode: 0o644}, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	u.fault = &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "too large"}
	if err := u.flush(); err != nil {
		t.Fatal(err)
	}
	if p := in.report.Projects; in.report.Failures() != 1 || p[0].User != bob || p[0].Reason == "" {
		t.Errorf("%+v", in.report)
	}
}

// TestLimitsHoldInAnyOrderOfEntries: a tar that alternates between files and
// repository does not reset a count.
func TestLimitsHoldInAnyOrderOfEntries(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	s := &dirSink{unfinished: &unfinished{owner: Owner{UID: os.Geteuid(), GID: os.Getegid()}, part: dir}, root: root}
	put := func(path string, size int) error {
		_, _, err := s.put(t.Context(), tree.Entry{Path: projectPath(alice, 0) + path, Mode: 0o644, Size: int64(size)}, strings.NewReader(strings.Repeat("x", size)))
		return err
	}
	if err := put("/a", 1); err != nil {
		t.Fatal(err)
	}
	s.fillers[projectPath(alice, 0)].SetLimits(10, 10)
	for i := range 3 {
		if err := put(fmt.Sprint("/.git/", i), 4); err != nil {
			t.Fatal(err)
		}
		err = put(fmt.Sprint("/b", i), 4)
	}
	if dreamcore.CodeOf(err) != dreamcore.CodeTooLarge {
		t.Error(err)
	}
	if err := s.finishProject(); err != nil {
		t.Fatal(err)
	}
}

// TestUnreadableDirectoriesOfATar: unpacking can enter them, and remove them again
// without root.
func TestUnreadableDirectoriesOfATar(t *testing.T) {
	name := filepath.Join(t.TempDir(), "closed.tar")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, h := range []tar.Header{
		{Name: projectPath(alice, 0) + "/closed", Typeflag: tar.TypeDir, Mode: 0},
		{Name: projectPath(alice, 0) + "/closed/a", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	report, err := r.Import(t.Context(), name, ImportOptions{})
	wantStates(t, report, err, Copied)
	info, err := os.Stat(r.path(projectPath(alice, 0) + "/closed"))
	if err != nil || info.Mode() != fs.ModeDir|0o700 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestAFailedImportLeavesNoVersion: if the files of an import cannot replace those
// of the project, the newest version has the files of the project.
func TestAFailedImportLeavesNoVersion(t *testing.T) {
	old, _ := oldTree(t, 1)
	r := newRig(t)
	report, err := r.Import(t.Context(), old, ImportOptions{})
	wantStates(t, report, err, Copied)
	before := contents(t, r.path(projectPath(alice, 0)))
	write(t, filepath.Join(old, projectPath(alice, 0)), map[string]string{"index.html": "other"})
	// A mount point cannot be renamed.
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	p := r.path(projectPath(alice, 0))
	if err := unix.Mount(p, p, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	report, err = r.Import(t.Context(), old, ImportOptions{Force: true})
	if err := unix.Unmount(p, 0); err != nil {
		t.Fatal(err)
	}
	if err == nil && report.Failures() != 1 {
		t.Fatalf("the import succeeded: %+v", report)
	}
	if got := contents(t, r.path(projectPath(alice, 0))); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Error(got)
	}
	items, _, err := r.versions.Items(t.Context(), alice, dreamcore.ProjectID(projectID(0)))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range items {
		if i.Path != "index.html" {
			continue
		}
		f, err := i.Open()
		if err != nil {
			t.Fatal(err)
		}
		if raw, _ := io.ReadAll(f); string(raw) != "<html>0" {
			t.Errorf("the newest version has %q", raw)
		}
		f.Close()
	}
}
