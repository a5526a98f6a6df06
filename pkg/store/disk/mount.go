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

// mountOptions match formatOptions.
const mountOptions = "errors=remount-ro,noinit_itable"

// An unmount can fail because of a descriptor that is about to be closed.
const (
	busyTries = 40
	busyPause = 25 * time.Millisecond
)

// mountState is the state of a mount point.
type mountState int

const (
	notMounted   mountState = iota
	imageMounted            // the image is mounted
	otherMounted            // another file system is mounted
)

// mounted returns the state of the mount point dir of an image.
func mounted(image, dir string) (mountState, error) {
	var at, above, file unix.Stat_t
	if err := unix.Lstat(dir, &at); err != nil {
		return notMounted, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return notMounted, &os.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	if at.Mode&unix.S_IFMT != unix.S_IFDIR {
		return notMounted, &os.PathError{Op: "mount", Path: dir, Err: unix.ENOTDIR}
	}
	if at.Dev == above.Dev {
		return notMounted, nil
	}
	if err := unix.Lstat(image, &file); errors.Is(err, unix.ENOENT) {
		return otherMounted, nil
	} else if err != nil {
		return otherMounted, &os.PathError{Op: "lstat", Path: image, Err: err}
	}
	dev, err := openDevice(at.Dev)
	if err != nil {
		return otherMounted, nil // not a loop device, so not the image
	}
	defer dev.Close()
	ours, err := backedBy(dev, &file)
	if err == nil && ours {
		return imageMounted, nil
	}
	return otherMounted, err
}

// mount mounts the file system on a loop device at dir.
func mount(dev *os.File, dir string) error {
	err := unix.Mount(dev.Name(), dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME, mountOptions)
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", dev.Name(), dir, err)
	}
	return nil
}

// attachAt mounts a new image.
func attachAt(ctx context.Context, image, dir string) error {
	dev, err := attach(ctx, image)
	if err != nil {
		return err
	}
	defer dev.Close()
	return mount(dev, dir)
}

// unmount unmounts the image from dir, as often as it is mounted there, and returns
// unused blocks to the disk of the host. Other file systems stay mounted.
func unmount(image, dir string) error {
	for try := 0; ; try++ {
		state, err := mounted(image, dir)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil // there is no mount point
		}
		if state != imageMounted || err != nil {
			return err
		}
		trim(dir)
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil: // it may be mounted once more below
		case errors.Is(err, unix.EBUSY) && try < busyTries:
			time.Sleep(busyPause)
		default:
			return &os.PathError{Op: "unmount", Path: dir, Err: err}
		}
	}
}
