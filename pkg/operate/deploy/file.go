package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// at returns the path on this machine for a path of the installation. Below a
// Root, symbolic links in the path are followed as they would be in the image;
// the last element is not followed.
func (p *Plan) at(path string) (string, error) {
	if p.o.Root == "" {
		return path, nil
	}
	dir, err := securejoin.SecureJoin(p.o.Root, filepath.Dir(path))
	if err != nil {
		return "", fileFault("resolve", path, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// lstat is os.Lstat for a path of the installation. fi is nil if nothing exists there.
func (p *Plan) lstat(path string) (host string, fi fs.FileInfo, err error) {
	if host, err = p.at(path); err != nil {
		return "", nil, err
	}
	fi, err = os.Lstat(host)
	if errors.Is(err, fs.ErrNotExist) {
		return host, nil, nil
	}
	if err != nil {
		return host, nil, fileFault("look at", host, err)
	}
	return host, fi, nil
}

// proper reports whether the permissions are mode and the owner is root. The
// owner is not checked if it cannot be set.
func (p *Plan) proper(fi fs.FileInfo, mode fs.FileMode) bool {
	if fi.Mode().Perm() != mode {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return !p.owned || ok && st.Uid == 0 && st.Gid == 0
}

// directory is the action that creates a directory with its permissions.
type directory struct {
	plan *Plan
	path string
	mode fs.FileMode
}

func (d *directory) name() string { return "directory " + d.path }

func (d *directory) item() Item {
	return Item{Kind: "directory", Path: d.path, Mode: octal(d.mode)}
}

func (d *directory) check(context.Context) (Status, error) {
	host, fi, err := d.plan.lstat(d.path)
	if err != nil || fi == nil {
		return Created, err
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		// The operator may keep it on another disk. Its target has the permissions.
		if fi, err = os.Stat(host); err != nil {
			return "", fileFault("look at", host, err)
		}
	}
	if !fi.IsDir() {
		return "", occupied(host, "a directory")
	}
	if d.plan.proper(fi, d.mode) {
		return Unchanged, nil
	}
	return Changed, nil
}

func (d *directory) apply(context.Context) (string, error) {
	host, err := d.plan.at(d.path)
	if err == nil {
		err = d.plan.mkdir(host)
	}
	if err == nil {
		err = os.Chmod(host, d.mode)
	}
	if err == nil && d.plan.owned {
		err = os.Chown(host, 0, 0)
	}
	if err != nil {
		return "", fileFault("create the directory", host, err)
	}
	return "", nil
}

// mkdir creates a directory and its parents with mode 0755 regardless of the
// umask: every user finds programs through them.
func (p *Plan) mkdir(dir string) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := p.mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// file is the action that writes a text file.
type file struct {
	plan    *Plan
	what    string
	path    string
	mode    fs.FileMode
	content func() []byte
	keep    bool // an existing file is never changed
}

func (f *file) name() string { return f.what }

func (f *file) item() Item {
	it := Item{Kind: "file", Path: f.path, Mode: octal(f.mode), Content: string(f.content())}
	if _, fi, err := f.plan.lstat(f.path); f.keep && err == nil && fi != nil {
		it.Content, it.Note = "", "it exists and is not changed"
	}
	return it
}

func (f *file) check(context.Context) (Status, error) {
	host, fi, err := f.plan.lstat(f.path)
	switch {
	case err != nil || fi == nil:
		return Created, err
	case f.keep:
		return Unchanged, nil
	case !fi.Mode().IsRegular():
		return "", occupied(host, "a file")
	}
	have, err := os.ReadFile(host)
	if err != nil {
		return "", fileFault("read", host, err)
	}
	if bytes.Equal(have, f.content()) && f.plan.proper(fi, f.mode) {
		return Unchanged, nil
	}
	return Changed, nil
}

func (f *file) apply(context.Context) (string, error) {
	return f.path, f.plan.install(f.path, f.mode, bytes.NewReader(f.content()))
}

// program is the action that copies an executable file.
type program struct {
	plan   *Plan
	what   string
	path   string
	source string // on this machine, also with a Root
}

func (c *program) name() string { return c.what }

func (c *program) item() Item {
	return Item{Kind: "program", Path: c.path, Mode: octal(0o755), Source: c.source}
}

func (c *program) check(context.Context) (Status, error) {
	host, fi, err := c.plan.lstat(c.path)
	if err != nil || fi == nil {
		return Created, err
	}
	if fi.IsDir() {
		return "", occupied(host, "a file")
	}
	same, err := sameContent(host, c.source)
	if err != nil {
		return "", fileFault("compare with "+c.source, host, err)
	}
	// A link to the program is replaced by a copy: moving the source must not
	// break the service.
	if same && fi.Mode().IsRegular() && c.plan.proper(fi, 0o755) {
		return Unchanged, nil
	}
	return Changed, nil
}

func (c *program) apply(context.Context) (string, error) {
	src, err := os.Open(c.source)
	if err != nil {
		return "", fileFault("open", c.source, err)
	}
	defer src.Close()
	return c.path, c.plan.install(c.path, 0o755, src)
}

func sameContent(a, b string) (bool, error) {
	fa, err := os.Open(a)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a dangling link
	}
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	ia, err := fa.Stat()
	if err != nil {
		return false, err
	}
	ib, err := fb.Stat()
	if err != nil {
		return false, err
	}
	if os.SameFile(ia, ib) {
		return true, nil
	}
	if ia.Size() != ib.Size() {
		return false, nil
	}
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		na, errA := io.ReadFull(fa, bufA)
		nb, errB := io.ReadFull(fb, bufB)
		if !bytes.Equal(bufA[:na], bufB[:nb]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			return atEnd(errA) && atEnd(errB), errors.Join(ignoreEnd(errA), ignoreEnd(errB))
		}
	}
}

func atEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func ignoreEnd(err error) error {
	if atEnd(err) {
		return nil
	}
	return err
}

// link is the action that creates a symbolic link. It replaces a file only if
// no content is lost: the target must begin with the file's content.
type link struct {
	plan    *Plan
	path    string
	target  func() string
	content func() ([]byte, error)
}

func (l *link) name() string { return "link " + l.path }

func (l *link) item() Item { return Item{Kind: "link", Path: l.path, Source: l.target()} }

func (l *link) check(context.Context) (Status, error) {
	host, fi, err := l.plan.lstat(l.path)
	if err != nil || fi == nil {
		return Created, err
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		if have, err := os.Readlink(host); err == nil && have == l.target() {
			return Unchanged, nil
		}
		return Changed, nil
	}
	want, err := l.content()
	if err != nil {
		return "", err
	}
	if have, err := os.ReadFile(host); err != nil || !bytes.HasPrefix(want, have) {
		return "", occupied(host, "a link to "+l.target())
	}
	return Changed, nil
}

func (l *link) apply(context.Context) (string, error) { return "", l.plan.relink(l.path, l.target()) }

// relink replaces the file at path by a symbolic link.
func (p *Plan) relink(path, target string) error {
	host, err := p.at(path)
	if err != nil {
		return err
	}
	tmp := host + ".new"
	if err = os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileFault("link", host, err)
	}
	if err = os.Symlink(target, tmp); err == nil {
		err = os.Rename(tmp, host)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fileFault("link", host, err)
	}
	return nil
}

// install writes a file atomically: temporary file, fsync, rename. A process
// that runs the old file keeps it.
func (p *Plan) install(path string, mode fs.FileMode, content io.Reader) (err error) {
	host, err := p.at(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fileFault("write", host, err)
		}
	}()
	if err := p.mkdir(filepath.Dir(host)); err != nil {
		return err
	}
	return statefile.ReplaceFile(host, mode, func(f *os.File) error {
		_, err := io.Copy(f, content)
		if err == nil && p.owned {
			err = f.Chown(0, 0)
		}
		return err
	})
}

func octal(m fs.FileMode) string { return fmt.Sprintf("%04o", m) }

func fileFault(action, path string, err error) error {
	reason, hint := ReasonFile, "check "+path
	switch {
	case errors.Is(err, fs.ErrPermission):
		reason, hint = ReasonNeedsRoot, ""
	case statefile.IsFull(err):
		hint = "free some space on the disk of " + path
	case errors.Is(err, syscall.EROFS):
		reason, hint = ReasonReadOnly, "make "+path+" writable"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: reason, Message: "cannot " + action + " " + path, Hint: hint, Err: err}
}

func occupied(path, want string) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeConflict, Reason: ReasonOccupied, Message: path + " is in the way: " + want + " belongs there",
		Hint: "move it away: mv " + path + " " + path + ".old",
	}
}
