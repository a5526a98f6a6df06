// Package statefile has the operations that keep the files of the state directory
// intact across crashes and concurrent processes: file locks, atomic replacement,
// append-only logs of lines, and the error of a full disk. The stores define the
// content of the files.
//
// A file below a directory that sandboxes can write to is not a state file: such
// trees need more care with names and links.
package statefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// IsFull reports whether err says that a disk or a quota is full.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ReasonNotWritable is the reason of an error of a state directory that this
// process may not write to.
const ReasonNotWritable dreamcore.Reason = "statefile.not-writable"

// Error describes an error of the file system below the state directory: it
// says that action failed and carries a hint that fits the cause. The code is
// CodeSetup for a full disk and for missing permissions, CodeInternal otherwise;
// the caller may change both.
func Error(action string, err error) *dreamcore.Error {
	e := &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot " + action, Err: err}
	switch {
	case IsFull(err):
		e.Code, e.Hint = dreamcore.CodeSetup, "the disk of the state directory is full: free space there (df -h and df -i show how much)"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Code, e.Reason, e.Hint = dreamcore.CodeSetup, ReasonNotWritable, "the state directory must be writable: check its owner with ls -ld"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EIO):
		e.Hint = "check the disk of the state directory (dmesg names its errors)"
	default:
		e.Hint = "check the state directory with ls -ld and df -h"
	}
	return e
}

// OpenDir opens a directory of files that only this user may read, which it creates
// if needed.
func OpenDir(path string) (*os.Root, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return os.OpenRoot(path)
}

// LookIn opens a directory of files without creating it. The root is nil if it is
// missing.
func LookIn(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return root, err
}

// Names returns the sorted names in a directory that keep accepts.
func Names(dir *os.Root, keep func(name string) bool) ([]string, error) {
	d, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !keep(name) })
	slices.Sort(names)
	return names, nil
}

// IgnoreExisting returns nil for an error that says that a file exists already, and
// err otherwise.
func IgnoreExisting(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// IgnoreMissing returns nil for an error that says that a file does not exist,
// and err otherwise.
func IgnoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
