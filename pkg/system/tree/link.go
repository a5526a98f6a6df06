package tree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Link copies the tree from into the empty directory to: it makes new
// directories, and hard links to entries of every other type. It opens
// nothing but directories. What vanishes or changes its type meanwhile is left
// out. It returns the space that from takes. CodeTooLarge: the tree exceeds
// MaxEntries, or the depth or number of links that can be handled.
func Link(ctx context.Context, from, to *os.Root) (Usage, error) {
	l := &linker{ctx: ctx, left: MaxEntries}
	err := l.dir(from, to, 1)
	return l.usage, err
}

type linker struct {
	ctx   context.Context
	left  int // names
	usage Usage
}

func (l *linker) dir(from, to *os.Root, depth int) error {
	if depth > maxLinkDepth {
		return errTooDeep
	}
	src, err := from.Open(".")
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := to.Open(".")
	if err != nil {
		return err
	}
	defer dst.Close()
	for name, err := range namesIn(src) {
		if err != nil {
			return err
		}
		if l.left--; l.left < 0 {
			return errTooDeep
		}
		if err := l.entry(from, to, src, dst, name, depth); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNotPlain) {
			return err
		}
	}
	return nil
}

func (l *linker) entry(from, to *os.Root, src, dst *os.File, name string, depth int) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	l.usage.add(info)
	if !info.IsDir() {
		return linkFile(from, src, dst, name)
	}
	sub, err := OpenDir(from, name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := to.Mkdir(name, privateMode); err != nil {
		return err
	}
	made, err := OpenDir(to, name)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := l.dir(sub, made, depth+1); err != nil {
		return err
	}
	return likeDir(made, info)
}

func linkFile(from *os.Root, src, dst *os.File, name string) error {
	// Flags 0: a symbolic link is linked itself, not its target.
	err := unix.Linkat(int(src.Fd()), name, int(dst.Fd()), name, 0)
	if errors.Is(err, syscall.EMLINK) {
		return errTooManyLinks
	}
	if errors.Is(err, syscall.EPERM) {
		if now, e := from.Lstat(name); e == nil && now.IsDir() {
			err = ErrNotPlain // a directory replaced the file meanwhile
		}
	}
	if err != nil {
		return &fs.PathError{Op: "link", Path: name, Err: err}
	}
	return nil
}

// likeDir gives a directory the owner, mode and time of another one.
func likeDir(dir *os.Root, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ErrNotPlain
	}
	return errors.Join(
		dir.Chown(".", int(st.Uid), int(st.Gid)),
		dir.Chmod(".", info.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky)),
		dir.Chtimes(".", info.ModTime(), info.ModTime()),
	)
}
