package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// fitrim is FITRIM of linux/fs.h: _IOWR('X', 121, struct fstrim_range).
const fitrim = 0xc0185879

// mountOptions go with formatOptions.
const mountOptions = "errors=remount-ro,noinit_itable"

// An unmount can meet a descriptor that is about to be closed.
const (
	busyTries = 40
	busyPause = 25 * time.Millisecond
)

// mountState is what lies at a mount point.
type mountState int

const (
	plain  mountState = iota // nothing is mounted there
	right                    // the image is
	others                   // something else is
)

// mounted looks at a mount point.
func mounted(image, dir string) (mountState, error) {
	var at, above, file unix.Stat_t
	if err := unix.Lstat(dir, &at); err != nil {
		return plain, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return plain, &os.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	if at.Mode&unix.S_IFMT != unix.S_IFDIR {
		return plain, &os.PathError{Op: "mount", Path: dir, Err: unix.ENOTDIR}
	}
	if at.Dev == above.Dev {
		return plain, nil
	}
	if err := unix.Lstat(image, &file); errors.Is(err, unix.ENOENT) {
		return others, nil
	} else if err != nil {
		return others, &os.PathError{Op: "lstat", Path: image, Err: err}
	}
	dev, err := openDevice(at.Dev)
	if err != nil {
		return others, nil // no loop device, so not ours
	}
	defer dev.Close()
	ours, err := backedBy(dev, &file)
	if err == nil && ours {
		return right, nil
	}
	return others, err
}

// mount mounts the file system on a loop device at dir.
func mount(dev *os.File, dir string) error {
	err := unix.Mount(dev.Name(), dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, mountOptions)
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", dev.Name(), dir, err)
	}
	return nil
}

// attachAt mounts an image that is new.
func attachAt(ctx context.Context, image, dir string) error {
	dev, err := attach(ctx, image)
	if err != nil {
		return err
	}
	defer dev.Close()
	return mount(dev, dir)
}

// unmount unmounts what is mounted at dir, as often as the image is, and gives
// the space that files no longer need back to the disk of the host. It leaves
// alone what is not ours.
func unmount(image, dir string) error {
	for try := 0; ; try++ {
		state, err := mounted(image, dir)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil // there is not even a mount point of ours
		}
		if state != right || err != nil {
			return err
		}
		trim(dir)
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil: // perhaps another lies below
		case errors.Is(err, unix.EBUSY) && try < busyTries:
			time.Sleep(busyPause)
		default:
			return &os.PathError{Op: "unmount", Path: dir, Err: err}
		}
	}
}
