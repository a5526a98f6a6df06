package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	loopControl  = "/dev/loop-control"
	loopTries    = 200
	loopPause    = 5 * time.Millisecond
	noLoopDevice = "modprobe loop creates loop devices; a container or a service needs /dev/loop-control and /dev/loop* (of a unit: PrivateDevices=no), "
)

// attach returns the loop device whose backing file is the image: an existing one,
// or a new one that detaches after its last use. The caller must close the file;
// before the device is mounted, that is its last use. It must be called with
// changeLock held, so that no other process attaches the image meanwhile.
func attach(ctx context.Context, image string) (*os.File, error) {
	if dev, err := findAttached(ctx, image); dev != nil || err != nil {
		return dev, err
	}
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for range loopTries {
		dev, err := configure(f)
		if err == nil {
			return dev, nil
		}
		// Another process took the free device, or it is not fully detached yet.
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EAGAIN) {
			return nil, loopError(err)
		}
		if err := sleep(ctx, loopPause); err != nil {
			return nil, err
		}
	}
	return nil, setupError("there is no free loop device", "detach unneeded ones (losetup -l), "+HowToTurnOff, nil)
}

// configure attaches the file to a free loop device.
func configure(image *os.File) (*os.File, error) {
	ctl, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("ask for a free loop device: %w", err)
	}
	dev, err := openNode("/dev", fmt.Sprintf("loop%d", n), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(image.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], image.Name()) // for losetup -l
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", dev.Name(), err), dev.Close())
	}
	return dev, nil
}

// findAttached returns the loop device whose backing file is the image, or nil.
func findAttached(ctx context.Context, image string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(image, &st); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: image, Err: err}
	}
	for range loopTries {
		dev, again, err := lookAttached(&st)
		if dev != nil || err != nil || !again {
			return dev, err
		}
		if err := sleep(ctx, loopPause); err != nil {
			return nil, err
		}
	}
	return nil, nil // a device that keeps being detached has no users, so it is not ours
}

// lookAttached looks once. It opens devices for reading only, because udev probes
// each device that was open for writing. again reports that a device was being
// detached and could not be queried.
func lookAttached(st *unix.Stat_t) (dev *os.File, again bool, err error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, false, err
	}
	for _, file := range files {
		name := filepath.Base(filepath.Dir(filepath.Dir(file)))
		dev, err := openNode("/dev", name, os.O_RDONLY)
		if err == nil {
			var ours bool
			if ours, err = backedBy(dev, st); ours {
				return dev, false, nil
			}
			_ = dev.Close()
		}
		switch {
		case errors.Is(err, unix.ENXIO), errors.Is(err, os.ErrNotExist):
			again = true
		case err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS):
			return nil, false, loopError(err)
		}
	}
	return nil, again, nil
}

// backedBy reports whether the file of st is the backing file of a loop device.
func backedBy(dev *os.File, st *unix.Stat_t) (bool, error) {
	info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if err != nil {
		return false, fmt.Errorf("query %s: %w", dev.Name(), err)
	}
	return info.Device == st.Dev && info.Inode == st.Ino, nil
}

// openDevice opens the block device with a number.
func openDevice(number uint64) (*os.File, error) {
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(number), unix.Minor(number)))
	if err != nil {
		return nil, err
	}
	name := filepath.Base(link)
	if !strings.HasPrefix(name, "loop") {
		return nil, fmt.Errorf("%s is not a loop device", name)
	}
	return openNode("/dev", name, os.O_RDONLY)
}

func loopError(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return setupError("there are no loop devices, which the disks of users need", noLoopDevice+HowToTurnOff, err)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) {
		return setupError("the kernel does not support loop devices as the disks of users need them",
			"Linux 5.8 or newer is needed, "+HowToTurnOff, err)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for a loop device: %w", ctx.Err())
	}
}

// openNode opens a loop device in dir. Its node is created if it is missing: in a
// container nothing else creates nodes for devices that are new.
func openNode(dir, name string, flag int) (*os.File, error) {
	path := filepath.Join(dir, name)
	dev, err := os.OpenFile(path, flag, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return dev, err
	}
	number, sysErr := os.ReadFile(filepath.Join("/sys/block", name, "dev"))
	var major, minor uint32
	if _, scanErr := fmt.Sscanf(string(number), "%d:%d", &major, &minor); sysErr != nil || scanErr != nil {
		return nil, err // the device does not exist either
	}
	// A service without the privilege works with the nodes that it has.
	if made := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); made != nil && !errors.Is(made, unix.EEXIST) {
		return nil, fmt.Errorf("create %s: %w", path, made)
	}
	return os.OpenFile(path, flag, 0)
}
