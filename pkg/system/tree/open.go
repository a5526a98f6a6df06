package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// CleanPath returns the shortest form of a path from outside. It refuses a path
// that leaves the tree or is the tree itself, with CodeInvalid.
func CleanPath(name string) (string, error) {
	clean := path.Clean(name)
	if name == "" || len(name) > dreamcore.MaxPathBytes || clean == "." || !fs.ValidPath(strings.ToValidUTF8(clean, "_")) || strings.ContainsRune(clean, 0) {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid file path", Hint: "use a path inside the project, such as index.html or assets/a.png"}
	}
	return clean, nil
}

// OpenDir opens the directory name, a single path element, below parent. A
// symbolic link is ErrNotPlain, also one that is put there meanwhile.
func OpenDir(parent *os.Root, name string) (*os.Root, error) {
	before, err := parent.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotPlain}
	}
	return OpenSameDir(parent, name, before)
}

// OpenSameDir is OpenDir for the directory that before describes; another one of
// that name is ErrNotPlain.
func OpenSameDir(parent *os.Root, name string, before fs.FileInfo) (*os.Root, error) {
	// The trailing dot makes the kernel open name as a directory. OpenRoot of
	// the bare name would wait for the writer of a FIFO that was put there
	// meanwhile.
	root, err := parent.OpenRoot(name + "/.")
	if err != nil {
		return nil, Replaced(err)
	}
	after, err := root.Stat(".")
	if err == nil && !os.SameFile(before, after) {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrNotPlain}
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// Replaced turns the error of os.Root for a link that leaves the root into
// ErrNotPlain: there was no link when the name was looked at. That error has no
// exported name, but it is the only one that does not come from the system.
func Replaced(err error) error {
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNotPlain, err)
}

// OpenDirs opens the directory at a relative path below root. "." opens root
// again. The caller must close it.
func OpenDirs(root *os.Root, name string) (*os.Root, error) {
	return descend(root, path.Clean(name), OpenDir)
}

// descend opens the directory at a clean relative path below root, one element
// after the other with open.
func descend(root *os.Root, name string, open func(dir *os.Root, element string) (*os.Root, error)) (*os.Root, error) {
	dir, err := root.OpenRoot(".")
	if err != nil || name == "." {
		return dir, err
	}
	for element := range strings.SplitSeq(name, "/") {
		next, err := open(dir, element)
		dir.Close()
		if err != nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

// OpenRegular opens the regular file name, a single path element, in dir, for
// reading. It never waits.
func OpenRegular(dir *os.Root, name string) (*os.File, fs.FileInfo, error) {
	before, err := dir.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: ErrNotPlain}
	}
	// O_NONBLOCK: opening must not wait for the writer of a FIFO that was put
	// there meanwhile. The comparison below refuses it, and links as well.
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, Replaced(err)
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrNotPlain}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, after, nil
}

// OpenBelow opens the regular file at a clean relative path below root, for
// reading. It returns the errors of the file system; see OpenFile.
func OpenBelow(root *os.Root, clean string) (*os.File, fs.FileInfo, error) {
	dir, err := OpenDirs(root, path.Dir(clean))
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	return OpenRegular(dir, path.Base(clean))
}

// OpenFile opens a regular file below root for reading. It never waits and
// follows no link. CodeInvalid: name leaves root; CodeNotFound: there is no
// regular file of that name. The caller must close the file.
func OpenFile(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	clean, err := CleanPath(name)
	if err != nil {
		return nil, nil, err
	}
	f, info, err := OpenBelow(root, clean)
	if err != nil {
		return nil, nil, FileError(err)
	}
	return f, info, nil
}

// ReadNames returns the sorted names in a directory and subtracts their number
// from left. It returns CodeTooLarge as soon as left is negative.
func ReadNames(root *os.Root, left *int) (names []string, err error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for name, err := range namesIn(d) {
		if err != nil {
			return nil, err
		}
		if *left--; *left < 0 {
			return nil, errTooManyNames
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// namesIn yields the names in an open directory. An error ends them. A directory that
// was removed meanwhile has no more names.
func namesIn(dir *os.File) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for {
			names, err := dir.Readdirnames(readBatch)
			for _, name := range names {
				if !yield(name, nil) {
					return
				}
			}
			if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
		}
	}
}

// readBatch is the number of names that are read from a directory at once.
const readBatch = 1024
