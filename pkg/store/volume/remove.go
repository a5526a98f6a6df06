package volume

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

const (
	removeDepth = 32   // directories that are open at once while a tree is removed
	removeTries = 1000 // for a directory that somebody still writes into
)

// removedPrefix is of the name that a directory has after it was moved up. No
// project has such a name.
const removedPrefix = "removed-"

// removeTree removes name, one path element, and all that is in it; it need not
// be there. base must be a directory that only we can write to. Other than
// os.RemoveAll it holds few descriptors whatever the depth: what lies deep is
// moved up to base, so that no sandbox can make us run out of them.
func removeTree(base *os.Root, name string) error {
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

type remover struct {
	base  *os.Root
	moved []string // to base, in order to be removed later
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
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotPlain) {
			continue // replaced meanwhile
		}
		if err != nil {
			return err
		}
		if err := errors.Join(r.clear(sub, depth+1), sub.Close()); err != nil {
			return err
		}
		r.tries = before // only this directory's own count
	}
}

// open opens a directory, also one that was closed to its owner.
func (r *remover) open(dir *os.Root, name string) (*os.Root, error) {
	sub, err := openDir(dir, name)
	if errors.Is(err, fs.ErrPermission) {
		if err := dir.Chmod(name, privateMode); err != nil {
			return nil, err
		}
		sub, err = openDir(dir, name)
	}
	return sub, err
}

// clear removes what is in a directory.
func (r *remover) clear(dir *os.Root, depth int) error {
	for {
		d, err := dir.Open(".")
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another has removed it: what was moved up belongs to nobody
		}
		if err != nil {
			return err
		}
		names, err := d.Readdirnames(1024)
		if err := errors.Join(notEOF(err), d.Close()); err != nil {
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

// moveUp takes a directory out of the depth.
func (r *remover) moveUp(dir *os.Root, name string) error {
	from, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := r.base.Open(".")
	if err != nil {
		return err
	}
	defer to.Close()
	up := removedPrefix + uuid.NewString()
	err = unix.Renameat(int(from.Fd()), name, int(to.Fd()), up)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("renameat", err)
	}
	r.moved = append(r.moved, up)
	return nil
}

func notEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
