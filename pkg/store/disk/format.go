package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const blockSize = 4096

// Format makes a file system of a fixed size in a sparse image file, which
// must be in a directory that only we can write to; uid and gid own its top
// directory. An image that is there is replaced. CodeSetup: mkfs.ext4 is
// missing.
func Format(ctx context.Context, image string, size int64, uid, gid int) (err error) {
	mkfs, err := find("mkfs.ext4")
	if err != nil {
		return err
	}
	temp := image + tempExtension
	if err := remove(temp); err != nil { // of a process that died
		return machineError("make a disk", err)
	}
	defer func() {
		if err != nil {
			err = machineError("make a disk", errors.Join(err, remove(temp)))
		}
	}()
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size / blockSize * blockSize); err != nil {
		return err
	}
	if err := run(ctx, mkfs, append(formatOptions(size, uid, gid), temp)...); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temp, image); err != nil {
		return err
	}
	return syncDir(filepath.Dir(image))
}

// formatOptions leave as much as possible of a small image to its user. The
// image is a new file and reads as zeros, so nothing has to be cleared: neither
// now nor, with the mount option noinit_itable, by the kernel later, which
// would fill the sparse file.
func formatOptions(size int64, uid, gid int) []string {
	journal := 4 // MiB; the smallest that ext4 takes, and it is written round and round
	if size >= 1<<30 {
		journal = 16
	}
	return []string{
		"-q", "-F", "-b", fmt.Sprint(blockSize), "-I", "256",
		"-i", "8192", // an inode for so many bytes: projects are many small files
		"-m", "0", // nothing is kept for root
		"-J", fmt.Sprintf("size=%d", journal),
		"-e", "remount-ro", // do not go on with a broken file system
		"-E", fmt.Sprintf("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=%d:%d", uid, gid),
	}
}

// find looks for a program of the system administrator's, whose directories
// are not in everybody's PATH.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: name + " is not installed, which makes the disks of users",
		Hint: "install it: apt-get install e2fsprogs (dnf install e2fsprogs), " + HowToTurnOff, Err: err,
	}
}

// remove is os.Remove of a file that need not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
