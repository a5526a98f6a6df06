package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const blockSize = 4096

// Format creates a file system of a fixed size in a sparse image file and replaces
// an existing image. Only this user may be able to write to its directory; uid and
// gid own the top directory of the file system. CodeSetup: mkfs.ext4 is missing.
func Format(ctx context.Context, image string, size int64, uid, gid int) (err error) {
	mkfs, err := lookPath("mkfs.ext4")
	if err != nil {
		return err
	}
	temp := image + tempExtension
	if err := remove(temp); err != nil { // left by a process that died
		return machineError("create a disk", err)
	}
	defer func() {
		if err != nil {
			err = machineError("create a disk", errors.Join(err, remove(temp)))
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
	return statefile.Sync(filepath.Dir(image))
}

// formatOptions leave as much space as possible of a small image to its user. The
// image is a new file and reads as zeros, so nothing has to be cleared: neither now
// nor, with the mount option noinit_itable, later by the kernel, which would fill
// the sparse file.
func formatOptions(size int64, uid, gid int) []string {
	journal := 4 // MiB; the minimum of ext4; the journal is overwritten all the time
	if size >= 1<<30 {
		journal = 16
	}
	return []string{
		"-q", "-F", "-b", fmt.Sprint(blockSize), "-I", "256",
		"-i", "8192", // bytes for each inode: projects have many small files
		"-m", "0", // reserve nothing for root
		"-J", fmt.Sprintf("size=%d", journal),
		"-e", "remount-ro", // stop using a damaged file system
		"-E", fmt.Sprintf("lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=%d:%d", uid, gid),
	}
}

// lookPath finds a system administration program, also where PATH lacks the
// directories of those.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", setupError(name+", which is needed for the disks of users, is not installed",
		"install it: apt-get install e2fsprogs (dnf install e2fsprogs), "+HowToTurnOff, err)
}

// remove removes a file if it exists.
func remove(path string) error { return statefile.IgnoreMissing(os.Remove(path)) }
