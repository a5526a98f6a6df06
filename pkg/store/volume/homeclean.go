package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Clean removes everything from the home but one regular file, such as that of
// the conversation; keep is its path relative to the home, "" keeps nothing.
// What a job leaves in its home (~/.bashrc, settings, programs) would run in
// later jobs, also in those of another project: a sandbox sees all homes of its
// user. No process may run in the user's sandbox meanwhile. The kept file and
// the directories above it stay where they are, so it is never lost, and no free
// space is needed; they belong to the sandbox's user alone afterwards. A link,
// or a file with several names, is not kept. CodeInternal: the disk failed.
func (h *Home) Clean(ctx context.Context, keep string) error {
	parent, release, err := h.openParent(ctx)
	if err == nil {
		err = h.clean(parent, keep)
		err = errors.Join(err, parent.Close())
		release()
	}
	if err != nil {
		return h.store.userError("clean the agent's home", err)
	}
	return nil
}

// openParent opens the directory that the home is in, which only we can write
// to.
func (h *Home) openParent(ctx context.Context) (parent *os.Root, release func(), err error) {
	if h.store.disks == nil {
		parent, err = openDirs(h.store.homes, h.user)
		return parent, func() {}, err
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	top, release, err := h.store.openUser(ctx, dreamcore.UserID(h.user), false)
	if err != nil {
		return nil, nil, err
	}
	parent, err = openDirs(top, homesInDir)
	if err = errors.Join(err, top.Close()); err != nil {
		release()
		return nil, nil, err
	}
	return parent, release, nil
}

func (h *Home) clean(parent *os.Root, keep string) error {
	if err := removeAside(parent); err != nil {
		return err
	}
	var elements []string
	if keep != "" {
		clean, err := cleanPath(keep)
		if err != nil {
			return err
		}
		elements = strings.Split(clean, "/")
	}
	dir, err := h.store.makeOwned(parent, h.project, privateMode)
	if err != nil {
		return err
	}
	_, err = h.keepOnly(parent, dir, elements)
	return errors.Join(err, dir.Close())
}

// keepOnly removes everything from dir but the file at the path keep, and
// reports whether that is there.
func (h *Home) keepOnly(parent, dir *os.Root, keep []string) (kept bool, err error) {
	// First: what is removed may be another name of the file.
	if len(keep) > 0 {
		if kept, err = h.keepEntry(parent, dir, keep); err != nil {
			return false, err
		}
	}
	d, err := dir.Open(".")
	if err != nil {
		return false, err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if kept && name == keep[0] {
				continue
			}
			if err := removeFrom(dir, name, parent); err != nil {
				return false, err
			}
		}
		if errors.Is(err, io.EOF) {
			return kept, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// keepEntry keeps the first element of a path: the file itself, or a directory
// with nothing in it but the rest of the path. kept is false where there is no
// such file, or none that may be kept.
func (h *Home) keepEntry(parent, dir *os.Root, keep []string) (kept bool, err error) {
	name := keep[0]
	info, err := dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(keep) > 1 {
		if !info.IsDir() {
			return false, nil
		}
		sub, err := h.store.makeOwned(dir, name, privateMode)
		if err != nil {
			return false, err
		}
		kept, err = h.keepOnly(parent, sub, keep[1:])
		return kept, errors.Join(err, sub.Close())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || st.Nlink != 1 {
		return false, nil
	}
	if err := dir.Lchown(name, h.store.opts.UID, h.store.opts.GID); err != nil {
		return false, err
	}
	return true, dir.Chmod(name, fileMode)
}

// removeFrom removes an entry of a directory that a sandbox can write to: it is
// moved into parent, which only we can write to, and removed there.
func removeFrom(dir *os.Root, name string, parent *os.Root) error {
	aside := removedPrefix + uuid.NewString()
	if err := moveBetween(dir, name, parent, aside); err != nil {
		return err
	}
	return removeTree(parent, aside)
}

// removeAside removes what a process that was killed has put aside.
func removeAside(parent *os.Root) error {
	d, err := parent.Open(".")
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1) // one for each project of the user
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, removedPrefix) {
			if err := removeTree(parent, name); err != nil {
				return err
			}
		}
	}
	return nil
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
