package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
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
// user. No process may run in the user's sandbox meanwhile. The kept file
// belongs to the sandbox's user alone afterwards; a link, or a file with several
// names, is not kept. If this process is killed on the way, nothing may be kept.
// It needs no free space. CodeInternal: the disk failed.
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
	kept := ""
	if keep != "" {
		var err error
		if kept, err = h.putAside(parent, keep); err != nil {
			return err
		}
	}
	if err := removeTree(parent, h.project); err != nil {
		return err
	}
	return h.rebuild(parent, kept, keep)
}

// rebuild makes the home anew, with the kept file in it. On a disk that is full
// what the old home had is free again only when the file system has written its
// journal; where even that is not enough, the file is given up, because a user
// without a home could not free any space.
func (h *Home) rebuild(parent *os.Root, kept, keep string) error {
	err := h.tryRebuild(parent, kept, keep)
	if errors.Is(err, syscall.ENOSPC) {
		if serr := syncFS(parent); serr != nil {
			return errors.Join(err, serr)
		}
		err = h.tryRebuild(parent, kept, keep)
	}
	if errors.Is(err, syscall.ENOSPC) && kept != "" {
		h.store.log.Warn("the disk of a user is so full that the conversation of a project is given up", "user", h.user, "project", h.project)
		if err := errors.Join(removeTree(parent, kept), syncFS(parent)); err != nil {
			return err
		}
		err = h.tryRebuild(parent, "", "")
	}
	return err
}

func (h *Home) tryRebuild(parent *os.Root, kept, keep string) error {
	fresh, err := h.store.makeOwned(parent, h.project, privateMode)
	if err != nil {
		return err
	}
	old := h.root
	h.root = fresh
	if err := old.Close(); err != nil {
		return err
	}
	if kept == "" {
		return nil
	}
	return h.takeBack(parent, kept, keep)
}

// syncFS writes everything of the file system that dir is on.
func syncFS(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
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

// putAside moves the file to keep into parent, and returns its name there. It
// is "" where there is no such file, or none that may be kept.
func (h *Home) putAside(parent *os.Root, keep string) (kept string, err error) {
	clean, err := cleanPath(keep)
	if err != nil {
		return "", err
	}
	dir, err := openDirs(h.root, path.Dir(clean))
	if isNoFile(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer dir.Close()
	kept = removedPrefix + uuid.NewString()
	err = moveBetween(dir, path.Base(clean), parent, kept)
	if isNoFile(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	// Only here nothing else can exchange it.
	info, err := parent.Lstat(kept)
	if err != nil {
		return "", err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || st.Nlink != 1 {
		return "", removeTree(parent, kept)
	}
	if err := parent.Chmod(kept, fileMode); err != nil {
		return "", err
	}
	return kept, parent.Lchown(kept, h.store.opts.UID, h.store.opts.GID)
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

// isNoFile reports whether a path leads to nothing that could be kept: it is
// missing, or goes through a file or a link.
func isNoFile(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotPlain) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// takeBack moves the kept file to its place in the new home.
func (h *Home) takeBack(parent *os.Root, kept, keep string) error {
	clean, err := cleanPath(keep)
	if err != nil {
		return err
	}
	dir, err := h.root.OpenRoot(".")
	for element := range strings.SplitSeq(path.Dir(clean), "/") {
		if err != nil {
			return err
		}
		if element == "." {
			break
		}
		var next *os.Root
		next, err = h.store.makeOwned(dir, element, privateMode)
		err = errors.Join(err, dir.Close())
		dir = next
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return moveBetween(parent, kept, dir, path.Base(clean))
}
