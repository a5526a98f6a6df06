package tree

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// MakeDirs opens the directory at a clean relative path below root and makes
// the missing ones, with mode 0700.
func MakeDirs(root *os.Root, name string) (*os.Root, error) {
	return makeDirs(root, name, privateMode, false)
}

// MakeSharedDirs is MakeDirs with mode 0755: as the umask leaves it, or exactly
// if exact is set.
func MakeSharedDirs(root *os.Root, name string, exact bool) (*os.Root, error) {
	return makeDirs(root, name, sharedMode, exact)
}

func makeDirs(root *os.Root, name string, mode fs.FileMode, exact bool) (*os.Root, error) {
	return descend(root, name, func(dir *os.Root, element string) (*os.Root, error) {
		err := dir.Mkdir(element, mode)
		if err == nil && exact {
			err = dir.Chmod(element, mode)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		return OpenDir(dir, element)
	})
}

// MakeOwned opens the directory name below parent and makes it if it is
// missing. It sets owner and mode if they differ. No sandbox may be able to
// write to parent.
func MakeOwned(parent *os.Root, name string, mode fs.FileMode, owner Owner) (*os.Root, error) {
	err := parent.Mkdir(name, privateMode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotPlain}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != owner.UID || int(st.Gid) != owner.GID {
		if err := parent.Lchown(name, owner.UID, owner.GID); err != nil {
			return nil, err
		}
	}
	const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if info.Mode()&modeBits != mode {
		if err := parent.Chmod(name, mode); err != nil {
			return nil, err
		}
	}
	return OpenDir(parent, name)
}

// MakeOwnedDirs opens the directory at a clean relative path below root. It
// makes the missing ones for owner, with mode 0755, and leaves the others alone.
func MakeOwnedDirs(root *os.Root, name string, owner Owner) (*os.Root, error) {
	return descend(root, name, func(dir *os.Root, element string) (*os.Root, error) {
		next, err := OpenDir(dir, element)
		if errors.Is(err, fs.ErrNotExist) {
			next, err = MakeOwned(dir, element, sharedMode, owner)
		}
		return next, err
	})
}
