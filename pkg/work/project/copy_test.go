package project

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
)

func TestCopyOutWritesTheFilesAndNothingElse(t *testing.T) {
	p, _ := newProject(t, volume.Options{})
	treetest.Hostile(t, p.Path(), treetest.Outside(t))
	os.Chmod(filepath.Join(p.Path(), "index.html"), 0o755|os.ModeSetuid)
	dest := filepath.Join(t.TempDir(), "new/game")
	copied, err := CopyOut(t.Context(), p, dest, false)
	if err != nil {
		t.Fatal(err)
	}
	var listed, got []string
	for _, f := range copied {
		listed = append(listed, f.Path)
	}
	filepath.WalkDir(dest, func(path string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			rel, _ := filepath.Rel(dest, path)
			got = append(got, rel)
		}
		return err
	})
	if !slices.Equal(listed, treetest.Visible) || !slices.Equal(got, treetest.Visible) {
		t.Fatalf("returned %q, wrote %q", listed, got)
	}
	if data, _ := os.ReadFile(filepath.Join(dest, "assets/b.png")); string(data) != "png!" {
		t.Fatalf("wrote %q", data)
	}
	for name, mode := range map[string]os.FileMode{"index.html": 0o755, "assets/b.png": 0o644} {
		if info, _ := os.Stat(filepath.Join(dest, name)); info.Mode() != mode {
			t.Errorf("%s: %v", name, info.Mode())
		}
	}
}

func TestCopyOutKeepsExistingFilesUnlessForced(t *testing.T) {
	p, _ := newProject(t, volume.Options{})
	treetest.Write(t, p.Path(), map[string]string{"index.html": "new"})
	dest := t.TempDir()
	treetest.Write(t, dest, map[string]string{"index.html": "old", "mine.txt": "mine"})
	_, err := CopyOut(t.Context(), p, dest, false)
	wantError(t, err, dreamcore.CodeConflict, "not empty")
	if data, _ := os.ReadFile(filepath.Join(dest, "index.html")); string(data) != "old" {
		t.Fatalf("wrote %q", data)
	}
	if _, err := CopyOut(t.Context(), p, dest, true); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"index.html": "new", "mine.txt": "mine"} {
		if data, _ := os.ReadFile(filepath.Join(dest, name)); string(data) != want {
			t.Errorf("%s: %q", name, data)
		}
	}
}

func TestCopyOutNeverFollowsLinksOfTheDestination(t *testing.T) {
	p, _ := newProject(t, volume.Options{})
	treetest.Write(t, p.Path(), map[string]string{"a.txt": "new", "sub/b.txt": "new"})
	outside := t.TempDir()
	treetest.Write(t, outside, map[string]string{"a.txt": "old"})
	dest := t.TempDir()
	os.Symlink(filepath.Join(outside, "a.txt"), filepath.Join(dest, "a.txt"))
	os.Symlink(outside, filepath.Join(dest, "sub"))
	_, err := CopyOut(t.Context(), p, dest, true)
	wantError(t, err, dreamcore.CodeInvalid, "sub/b.txt")
	if data, _ := os.ReadFile(filepath.Join(outside, "a.txt")); string(data) != "old" {
		t.Fatalf("wrote %q through a link", data)
	}
	if _, err := os.Lstat(filepath.Join(outside, "b.txt")); err == nil {
		t.Fatal("wrote into a linked directory")
	}
	if info, _ := os.Lstat(filepath.Join(dest, "a.txt")); !info.Mode().IsRegular() {
		t.Fatalf("the link was not replaced: %v", info.Mode())
	}
	if left, _ := filepath.Glob(filepath.Join(dest, ".dreamcore-*")); len(left) != 0 {
		t.Fatalf("residue: %v", left)
	}
}

func TestCopyOutFaults(t *testing.T) {
	p, _ := newProject(t, volume.Options{})
	treetest.Write(t, p.Path(), map[string]string{"a.txt": "new"})
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	_, err := CopyOut(t.Context(), p, file, true)
	wantError(t, err, dreamcore.CodeInvalid, "cannot copy")
	dest := t.TempDir()
	os.MkdirAll(filepath.Join(dest, "a.txt"), 0o755)
	_, err = CopyOut(t.Context(), p, dest, true)
	wantError(t, err, dreamcore.CodeInvalid, "a.txt")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := CopyOut(ctx, p, t.TempDir(), false); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}
