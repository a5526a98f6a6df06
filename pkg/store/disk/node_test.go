package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAMissingNodeOfALoopDeviceIsCreated(t *testing.T) {
	needDisks(t)
	dir := t.TempDir()
	if dev, err := openNode(dir, "loop4095", os.O_RDONLY); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a device that does not exist: %v, %v", dev, err)
	}
	f, err := openNode(dir, "loop0", unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got, want unix.Stat_t
	if err := errors.Join(unix.Stat(filepath.Join(dir, "loop0"), &got), unix.Stat("/dev/loop0", &want)); err != nil {
		t.Fatal(err)
	}
	if got.Mode != unix.S_IFBLK|0o600 || got.Rdev != want.Rdev {
		t.Errorf("mode %o, device %x, want %x", got.Mode, got.Rdev, want.Rdev)
	}
}
