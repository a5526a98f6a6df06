package image

import (
	"os"
	"path/filepath"
	"testing"
)

// Names of an image need not be UTF-8, and a file with several names counts once.
func TestTreeSizeCountsDirectoriesWithAnyName(t *testing.T) {
	dir := t.TempDir()
	sub := filepath.Join(dir, "\xff\xfe", "b")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sub, "f"), make([]byte, 100), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(sub, "f"), filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if size, err := treeSize(t.Context(), root, map[uint64]bool{}); err != nil || size != 100 {
		t.Errorf("%d bytes, %v", size, err)
	}
}
