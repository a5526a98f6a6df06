package image

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Names of the OCI format that hide files of lower layers.
const (
	whiteoutStart = ".wh."         // followed by the name that is hidden
	opaqueName    = ".wh..wh..opq" // hides everything in the directory
	auxStart      = ".wh..wh."     // metadata of aufs
)

// everything stands for all files in a directory. No entry has that name.
const everything = ""

// whiteout returns the name that an entry hides. ok reports whether the entry is a
// whiteout and not a file of the image.
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

// hide removes the file name in dir, or everything in dir, if it comes from lower
// layers. Files of this layer stay, in any order of its entries.
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
		if l.isOwn(at) {
			return nil
		}
		return d.Remove(name)
	}
	if len(l.created) == 0 {
		return d.RemoveAll(name)
	}
	sub, err := d.OpenRoot(name)
	if err != nil {
		return err
	}
	if err := errors.Join(l.hideAll(sub, at), sub.Close()); err != nil {
		return err
	}
	if l.isOwn(at) {
		return nil
	}
	// It may contain files of this layer.
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
	return statefile.Names(d, func(string) bool { return true })
}
