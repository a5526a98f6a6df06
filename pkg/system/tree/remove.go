package tree

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	removeDepth = 32   // directories that are open at once while a tree is removed
	removeTries = 1000 // for a directory that another process still writes into
)

// movedPrefix starts the name that a directory gets when it is moved up for its
// removal. No project has such a name.
const movedPrefix = "removed-"

// RemoveAll removes name, a single path element of base, with everything in it.
// It need not exist. Only this program may be able to write to base. Unlike
// os.RemoveAll it holds few descriptors at any depth, so that no sandbox can
// exhaust them: it first moves deeply nested directories up to base. After a
// crash, RemoveMoved removes such directories.
func RemoveAll(base *os.Root, name string) error {
	pending := []string{name}
	for len(pending) > 0 {
		last := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		r := &remover{base: base}
		if err := r.entry(base, last, 1); err != nil {
			return err
		}
		pending = append(pending, r.moved...)
	}
	return nil
}

// RemoveFrom removes name from dir, a directory that a sandbox can write to: it
// moves the entry into base, which only this program may be able to write to,
// and removes it there.
func RemoveFrom(dir *os.Root, name string, base *os.Root) error {
	moved := movedPrefix + uuid.NewString()
	if err := moveBetween(dir, name, base, moved); err != nil {
		return err
	}
	return RemoveAll(base, moved)
}

// RemoveMoved removes what RemoveAll and RemoveFrom had moved to base when a
// crash ended them.
func RemoveMoved(base *os.Root) error {
	entries, err := fs.ReadDir(base.FS(), ".")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), movedPrefix) {
			errs = append(errs, RemoveAll(base, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// ReasonDirectory is the reason of an error of Remove for a directory.
const ReasonDirectory dreamcore.Reason = "tree.directory"

// Remove removes name below root; a directory only if all is set. CodeNotFound:
// it does not exist; CodeInvalid: it is a directory, or name leaves root or goes
// through a link.
func Remove(root *os.Root, name string, all bool) error {
	clean, err := CleanPath(name)
	if err != nil {
		return err
	}
	dir, err := OpenDirs(root, path.Dir(clean))
	if err != nil {
		return FileError(err)
	}
	defer dir.Close()
	info, err := dir.Lstat(path.Base(clean))
	if err != nil {
		return FileError(err)
	}
	if info.IsDir() && !all {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonDirectory, Message: name + " is a directory"}
	}
	if err := RemoveAll(dir, path.Base(clean)); err != nil {
		return DiskError("remove "+name, err)
	}
	return nil
}

type remover struct {
	base  *os.Root
	moved []string // names in base that are still to be removed
	tries int
}

// entry removes one name of a directory.
func (r *remover) entry(dir *os.Root, name string, depth int) error {
	for {
		err := dir.Remove(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if r.tries++; !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) || r.tries > removeTries {
			return err
		}
		if depth > removeDepth {
			return r.moveUp(dir, name)
		}
		before := r.tries
		sub, err := r.open(dir, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotPlain) {
			continue // replaced meanwhile
		}
		if err != nil {
			return err
		}
		if err := errors.Join(r.clear(sub, depth+1), sub.Close()); err != nil {
			return err
		}
		r.tries = before // the tries inside sub do not count here
	}
}

// open opens a directory, also one that its owner may not read.
func (r *remover) open(dir *os.Root, name string) (*os.Root, error) {
	sub, err := OpenDir(dir, name)
	if errors.Is(err, fs.ErrPermission) {
		if err := dir.Chmod(name, privateMode); err != nil {
			return nil, err
		}
		sub, err = OpenDir(dir, name)
	}
	return sub, err
}

// clear removes the contents of a directory.
func (r *remover) clear(dir *os.Root, depth int) error {
	for {
		d, err := dir.Open(".")
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process has removed it
		}
		if err != nil {
			return err
		}
		names, err := d.Readdirnames(readBatch)
		if err == io.EOF {
			err = nil
		}
		if err := errors.Join(err, d.Close()); err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			if err := r.entry(dir, name, depth); err != nil {
				return err
			}
		}
	}
}

// moveUp moves a deeply nested directory to base.
func (r *remover) moveUp(dir *os.Root, name string) error {
	up := movedPrefix + uuid.NewString()
	err := moveBetween(dir, name, r.base, up)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		r.moved = append(r.moved, up)
	}
	return err
}

// moveBetween moves an entry of one directory into another.
func moveBetween(from *os.Root, name string, to *os.Root, as string) error {
	f, err := from.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := to.Open(".")
	if err != nil {
		return err
	}
	defer t.Close()
	if err := unix.Renameat(int(f.Fd()), name, int(t.Fd()), as); err != nil {
		return &os.PathError{Op: "rename", Path: name, Err: err}
	}
	return nil
}
