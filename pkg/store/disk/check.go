package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Check reports whether this machine can bound disks, by trying it: it creates a
// small file system in the directory dir, mounts it, writes past its end, and
// removes everything. CodeSetup: it cannot, and the hint says why.
func Check(ctx context.Context, dir string) (err error) {
	const action = "try a bounded disk"
	dir, err = filepath.Abs(dir)
	if err != nil {
		return machineError(action, err)
	}
	temp, err := os.MkdirTemp(dir, ".disk-check-")
	if err != nil {
		return machineError(action, err)
	}
	image, top := filepath.Join(temp, "image"), filepath.Join(temp, "top")
	defer func() {
		// Never RemoveAll: a file system that is still mounted must not be emptied.
		err = machineError(action, errors.Join(err, unmount(image, top), remove(top), remove(image), remove(image+tempExtension), remove(temp)))
	}()
	if err := os.Mkdir(top, privateMode); err != nil {
		return err
	}
	if err := Format(ctx, image, MinBytes, os.Geteuid(), os.Getegid()); err != nil {
		return err
	}
	if err := attachAt(ctx, image, top); err != nil {
		return err
	}
	return overflow(ctx, filepath.Join(top, "file"))
}

// overflow writes a file until there is no space left, which must be soon.
func overflow(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := bytes.Repeat([]byte("dreamcore"), 1<<20/9)
	for written := 0; written <= MinBytes; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("write until it is full: %w", err)
		}
		n, err := f.Write(chunk)
		written += n
		if errors.Is(err, unix.ENOSPC) {
			return f.Sync() // the data that fit must reach the image
		}
		if err != nil {
			return err
		}
	}
	return setupError("a bounded disk accepted more than its size",
		"this kernel does not enforce the bound: turn it off with disk_mib: 0, and monitor the disk", nil)
}
