package tree

import (
	"os"
	"path/filepath"
	"testing"
)

func TestADirectoryThatIsRemovedHasNoNames(t *testing.T) {
	top := t.TempDir()
	if err := os.Mkdir(filepath.Join(top, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(top, "d"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := os.Remove(filepath.Join(top, "d")); err != nil {
		t.Fatal(err)
	}
	left := 10
	if names, err := ReadNames(root, &left); err != nil || len(names) != 0 {
		t.Errorf("%q, %v", names, err)
	}
}
