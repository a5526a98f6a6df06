package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxSkeleton bounds the number of files and directories of a root, not counting
// the mounts into it.
const maxSkeleton = 1000

// copySkeleton copies the root src to dst for one sandbox alone. The engine
// creates mount points that are missing in a root, such as those below a file
// system in memory, on the host: in a shared root they would stay forever, and
// would show other sandboxes which users and projects there were.
func copySkeleton(src, dst string) error {
	entries := 0
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entries++; entries > maxSkeleton {
			return fmt.Errorf("more than %d files: mount large directories into the root instead of copying them into it", maxSkeleton)
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		return copyEntry(path, filepath.Join(dst, rel), d)
	})
	if err != nil {
		return fmt.Errorf("copy root %s: %w", src, err)
	}
	return nil
}

func copyEntry(src, dst string, d fs.DirEntry) error {
	switch d.Type() {
	case fs.ModeDir:
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if err := os.Mkdir(dst, 0o700); err != nil {
			return err
		}
		return os.Chmod(dst, fi.Mode().Perm())
	case fs.ModeSymlink:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(target, dst)
	case 0:
		// A hard link is safe: the root is read-only inside.
		if err := os.Link(src, dst); !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EPERM) {
			return err
		}
		return copyFile(src, dst)
	}
	return fmt.Errorf("%s is neither a file, a directory nor a link", src)
}

func copyFile(src, dst string) error {
	from, err := os.Open(src)
	if err != nil {
		return err
	}
	defer from.Close()
	fi, err := from.Stat()
	if err != nil {
		return err
	}
	to, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Chmod(fi.Mode().Perm()), to.Close())
}
