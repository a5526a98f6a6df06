package image

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// Bounds of the names in an image, as Linux has them.
const (
	maxElement = 255
	maxLinks   = 40 // symbolic links on the way to one file
)

// tree is the root file system that is being made. A symbolic link in it
// means what it will mean inside a sandbox: an absolute one starts at the
// tree's root, and ".." ends there. os.Root alone would refuse such links;
// here they are followed first, by name, and what is opened then is a path
// without links, through os.Root all the same.
type tree struct {
	root   *os.Root
	limits Limits

	// The directory that was asked for last stays open: entries of one
	// directory follow one another.
	name string   // as entries write it
	path string   // where it really is; "." is the root
	dir  *os.Root // nil: none
}

func (t *tree) close() {
	if t.dir != nil {
		_ = t.dir.Close() // it was only read through
	}
	t.dir = nil
}

// at opens the directory name, which lies at path, until the next call. What
// is missing is made with mkdir, or is fs.ErrNotExist where mkdir is nil.
func (t *tree) at(name string, mkdir func(path string) error) (dir *os.Root, at string, err error) {
	if t.dir != nil && t.name == name {
		return t.dir, t.path, nil
	}
	t.close()
	if at, err = t.resolve(name); err != nil {
		return nil, "", err
	}
	// The dot makes it an error of the kernel's if at is no directory.
	if dir, err = t.root.OpenRoot(at + "/."); errors.Is(err, fs.ErrNotExist) && mkdir != nil {
		if err = t.makeAll(at, mkdir); err == nil {
			dir, err = t.root.OpenRoot(at + "/.")
		}
	}
	if errors.Is(err, syscall.ENOTDIR) {
		err = flaw("what it lies in is no directory")
	}
	if err != nil {
		return nil, "", err
	}
	t.name, t.path, t.dir = name, at, dir
	return dir, at, nil
}

// forget must be called when a directory or a link was replaced or removed:
// the open directory may be elsewhere now.
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

// resolve returns where name really is: a path from the root without symbolic
// links. What does not exist may follow.
func (t *tree) resolve(name string) (string, error) {
	todo := strings.Split(name, "/")
	var done []string
	exists := true
	for links := 0; len(todo) > 0; {
		element := todo[0]
		todo = todo[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			if len(done) > 0 {
				done = done[:len(done)-1]
			}
			exists = true
			continue
		}
		done = append(done, element)
		if len(done) > t.limits.PathDepth {
			return "", excess("links make its path too deep")
		}
		if !exists {
			continue
		}
		target, err := t.root.Readlink(strings.Join(done, "/"))
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return "", flaw("its path goes through too many symbolic links")
			}
			done = done[:len(done)-1]
			if path.IsAbs(target) {
				done = done[:0]
			}
			todo = append(strings.Split(target, "/"), todo...)
		case errors.Is(err, fs.ErrNotExist):
			exists = false
		case errors.Is(err, syscall.EINVAL): // no link
		case errors.Is(err, syscall.ENOTDIR):
			return "", flaw("what it lies in is no directory")
		default:
			return "", err
		}
	}
	if len(done) == 0 {
		return ".", nil
	}
	at := strings.Join(done, "/")
	if len(at) > t.limits.PathBytes {
		return "", excess("links make its path too long")
	}
	return at, nil
}

func join(dir, base string) string {
	if dir == "." {
		return base
	}
	return dir + "/" + base
}

// cleanName checks the name of an entry and returns it without what means
// nothing: "." is the root itself.
func cleanName(name string, limits Limits) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", flaw("its name has a NUL byte")
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
