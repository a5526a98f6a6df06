package disk

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestTheBallastShrinksAndGrowsWithTheFreeSpace(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	path := filepath.Join(dir, "reserve")
	const size = 200 << 20
	b := NewBallast(path, size)
	adjust := func(want int64) {
		t.Helper()
		if err := b.Adjust(); err != nil {
			t.Fatal(err)
		}
		if got := b.Bytes(); got != want {
			t.Fatalf("the ballast has %d bytes, want %d", got, want)
		}
		if got := NewBallast(path, size).Bytes(); got != want {
			t.Fatalf("another process sees %d bytes, want %d", got, want)
		}
	}
	adjust(size)
	if err := CheckFree(dir, 500<<20, b); err != nil {
		t.Errorf("the ballast does not count as free: %v", err)
	}
	other := fillHost(t, dir)
	adjust(size - 2*lowBytes)
	if got := free(t, dir); got != 2*lowBytes {
		t.Errorf("%d bytes are free for this program", got)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	adjust(size)
	adjust(size)
	if err := NewBallast(path, 0).Adjust(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("a ballast of size 0 was not removed: %v", err)
	}
}
