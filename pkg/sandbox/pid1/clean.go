package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Clean removes the contents of directories, but not the directories
// themselves. It runs inside a sandbox while no other process runs, as the user
// that owns the files and therefore controls their names, depth and modes.
// Nothing outside is touched: links are removed, not followed.
//
// In a directory after SpecialPrefix, only FIFOs, sockets and devices are
// removed. An engine may keep them inside the sandbox, invisible to the host,
// and a program of the next job that opens one would block forever.
func Clean(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		if dir, ok := strings.CutPrefix(dir, SpecialPrefix); ok {
			names := specialNames
			errs = append(errs, removeSpecial(dir, specialDepth, &names))
			continue
		}
		errs = append(errs, empty(dir))
	}
	return errors.Join(errs...)
}

// Bounds of the search for special files.
const (
	specialDepth = 6 // nested directories
	specialNames = 20_000
)

func removeSpecial(dir string, depth int, names *int) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) && os.Chmod(dir, 0o700) == nil {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return nil // gone, or owned by another user
	}
	var errs []error
	for _, e := range entries {
		if *names--; *names < 0 {
			break
		}
		name := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir() && depth > 1:
			errs = append(errs, removeSpecial(name, depth-1, names))
		case e.Type()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice) != 0:
			if err := os.Remove(name); err != nil {
				errs = append(errs, fmt.Errorf("clean: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean: %w", err)
	}
	var errs []error
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if os.RemoveAll(name) == nil {
			continue
		}
		// Some directories may deny their owner access.
		open(name)
		if err := os.RemoveAll(name); err != nil {
			errs = append(errs, fmt.Errorf("clean: %w", err))
		}
	}
	return errors.Join(errs...)
}

// open makes the directories of a tree accessible to their owner. Errors show
// when the tree is removed.
func open(name string) {
	fi, err := os.Lstat(name)
	if err != nil || !fi.IsDir() {
		return
	}
	_ = syscall.Chmod(name, 0o700)
	entries, _ := os.ReadDir(name)
	for _, e := range entries {
		if e.IsDir() {
			open(filepath.Join(name, e.Name()))
		}
	}
}
