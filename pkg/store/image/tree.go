package image

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// Bounds of the names in an image, those of Linux.
const (
	maxElement = 255
	maxLinks   = 40 // symbolic links on the way to one file
)

// tree is the root file system that is being unpacked. A symbolic link in it has
// the meaning that it will have inside a sandbox: an absolute one starts at the
// root of the tree, and ".." stops there. os.Root alone would refuse such links.
// Here they are resolved first, by name; the resulting path without links is
// opened through os.Root all the same.
type tree struct {
	root   *os.Root
	limits Limits

	// The last directory stays open: entries of one directory usually follow one
	// another.
	name string   // as entries write it
	path string   // its real location; "." is the root
	dir  *os.Root // may be nil
}

func (t *tree) close() {
	if t.dir != nil {
		_ = t.dir.Close() // it was only read through
	}
	t.dir = nil
}

// at returns the directory name, open until the next call, and its real location.
// Missing directories are created with mkdir; if mkdir is nil, the error is
// fs.ErrNotExist.
func (t *tree) at(name string, mkdir func(path string) error) (dir *os.Root, at string, err error) {
	if t.dir != nil && t.name == name {
		return t.dir, t.path, nil
	}
	t.close()
	if at, err = t.resolve(name); err != nil {
		return nil, "", err
	}
	// With the dot, the kernel returns an error if at is not a directory.
	if dir, err = t.root.OpenRoot(at + "/."); errors.Is(err, fs.ErrNotExist) && mkdir != nil {
		if err = t.makeAll(at, mkdir); err == nil {
			dir, err = t.root.OpenRoot(at + "/.")
		}
	}
	if errors.Is(err, syscall.ENOTDIR) {
		err = flaw("its parent is not a directory")
	}
	if err != nil {
		return nil, "", err
	}
	t.name, t.path, t.dir = name, at, dir
	return dir, at, nil
}

// forget must be called when a directory or a link was replaced or removed: the
// open directory may be another one now.
func (t *tree) forget() { t.name = "\x00" }

func (t *tree) makeAll(at string, mkdir func(path string) error) error {
	for i := range len(at) + 1 {
		if i < len(at) && at[i] != '/' {
			continue
		}
		_, err := t.root.Lstat(at[:i])
		if errors.Is(err, fs.ErrNotExist) {
			err = mkdir(at[:i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// resolve returns the real location of name: a path from the root without symbolic
// links. It may end in names that do not exist.
func (t *tree) resolve(name string) (string, error) {
	at, err := securejoin.SecureJoinVFS("", name, &linkReader{tree: t})
	switch at = strings.Trim(at, "/"); {
	case err != nil:
		return "", err
	case at == "":
		return ".", nil
	case len(at) > t.limits.PathBytes:
		return "", excess("links make its path too long")
	}
	return at, nil
}

// linkReader is the file system of a tree for securejoin, which has no bound on
// the depth of a path.
type linkReader struct {
	tree  *tree
	links int // read so far
}

func (l *linkReader) Lstat(name string) (os.FileInfo, error) {
	name = strings.Trim(name, "/")
	if strings.Count(name, "/") >= l.tree.limits.PathDepth {
		return nil, excess("links make its path too deep")
	}
	return l.tree.root.Lstat(name)
}

func (l *linkReader) Readlink(name string) (string, error) {
	if l.links++; l.links > maxLinks {
		return "", flaw("its path goes through too many symbolic links")
	}
	return l.tree.root.Readlink(strings.Trim(name, "/"))
}

func join(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

// cleanName checks the name of an entry and returns it without empty elements and
// dots; the root itself is ".".
func cleanName(name string, limits Limits) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", flaw("its name contains a NUL byte")
	}
	var elements []string
	for element := range strings.SplitSeq(name, "/") {
		switch {
		case element == "" || element == ".":
			continue
		case element == "..":
			return "", flaw("its name leaves the image")
		case len(element) > maxElement:
			return "", flawf("its name has more than %d bytes", maxElement)
		}
		if elements = append(elements, element); len(elements) > limits.PathDepth {
			return "", excess("its path is too deep")
		}
	}
	if len(elements) == 0 {
		return ".", nil
	}
	clean := strings.Join(elements, "/")
	if len(clean) > limits.PathBytes {
		return "", excess("its path is too long")
	}
	return clean, nil
}
