package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Check tells whether this machine can bound disks, by doing it: it makes a
// small file system in the directory dir, mounts it, writes past its end, and
// removes all of it. CodeSetup: it cannot; the hint says what is missing.
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
		// Never RemoveAll: what cannot be unmounted must not be emptied.
		err = errors.Join(err, unmount(image, top), remove(top), remove(image), remove(image+tempExtension), remove(temp))
		if err != nil {
			err = machineError(action, err)
		}
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
			return f.Sync() // what did fit must reach the image
		}
		if err != nil {
			return err
		}
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "a bounded disk took more than its size",
		Hint: "do not rely on the bound of this kernel: turn it off with disk_mib: 0, and watch the disk",
	}
}
