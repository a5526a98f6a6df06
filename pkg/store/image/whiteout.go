package image

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// Names that hide what lower layers have, as the format of OCI has them.
const (
	whiteoutStart = ".wh."         // and the name that is hidden
	opaqueName    = ".wh..wh..opq" // everything in the directory
	auxStart      = ".wh..wh."     // notes of a file system of old
)

// everything stands for all that is in a directory. No entry has that name.
const everything = ""

// whiteout returns what an entry of that name hides. ok tells that it is no
// file of the image at all.
func whiteout(base string) (hidden string, ok bool) {
	if base == opaqueName {
		return everything, true
	}
	hidden, ok = strings.CutPrefix(base, whiteoutStart)
	if ok && hidden == "" {
		hidden = "."
	}
	return hidden, ok
}

// hide removes what lower layers have put at name in dir, or everything in
// it. What this layer itself has put there stays, in whatever order its
// entries come.
func (l *layer) hide(dir, name string) error {
	switch {
	case name == "." || name == "..":
		return flaw("it hides no name")
	case strings.HasPrefix(whiteoutStart+name, auxStart), l.base:
		return nil
	}
	d, at, err := l.tree.at(dir, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.tree.forget()
	if name == everything {
		return l.hideAll(d, at)
	}
	return l.hideOne(d, at, name)
}

func (l *layer) hideOne(d *os.Root, in, name string) error {
	at := join(in, name)
	fi, err := d.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		if l.mine(at) {
			return nil
		}
		return d.Remove(name)
	}
	if len(l.made) == 0 {
		return d.RemoveAll(name)
	}
	sub, err := d.OpenRoot(name)
	if err != nil {
		return err
	}
	if err := errors.Join(l.hideAll(sub, at), sub.Close()); err != nil {
		return err
	}
	if l.mine(at) {
		return nil
	}
	// Something of this layer may be in it.
	if err := d.Remove(name); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

func (l *layer) hideAll(d *os.Root, at string) error {
	if err := l.gauge.ctx.Err(); err != nil {
		return err
	}
	names, err := namesIn(d)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := l.hideOne(d, at, name); err != nil {
			return err
		}
	}
	return nil
}

func namesIn(d *os.Root) ([]string, error) {
	f, err := d.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}
