package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Clean removes everything from the home except for one regular file, such as
// the conversation; keep is its path relative to the home, "" keeps nothing.
// Files that a job leaves in its home (~/.bashrc, settings, programs) would run
// in later jobs, also in those of other projects, because a sandbox sees all
// homes of its user. No process may be running in the user's sandbox. The kept
// file and the directories above it stay in place, so the file cannot be lost
// and no free space is needed; afterwards they belong to the sandbox's user
// alone. A link, or a file with several names, is not kept. CodeInternal: the
// disk failed.
func (h *Home) Clean(ctx context.Context, keep string) error {
	parent, release, err := h.store.openHomes(ctx, h.user, false)
	if err == nil {
		err = h.clean(parent, keep)
		err = errors.Join(err, parent.Close())
		release()
	}
	if err != nil {
		return h.store.UserError("clean the agent's home", err)
	}
	return nil
}

func (h *Home) clean(parent *os.Root, keep string) error {
	if err := tree.RemoveMoved(parent); err != nil {
		return err
	}
	var elements []string
	if keep != "" {
		clean, err := tree.CleanPath(keep)
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

// keepOnly removes everything from dir except for the file at the path keep, and
// reports whether that file exists.
func (h *Home) keepOnly(parent, dir *os.Root, keep []string) (kept bool, err error) {
	// The kept file comes first, while every other name of it still exists and
	// can be counted.
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
			if err := tree.RemoveFrom(dir, name, parent); err != nil {
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
// that then contains only the rest of the path. kept is false if the file does
// not exist or may not be kept.
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
	if !info.Mode().IsRegular() || info.Sys().(*syscall.Stat_t).Nlink != 1 {
		return false, nil
	}
	if err := dir.Lchown(name, h.store.opts.UID, h.store.opts.GID); err != nil {
		return false, err
	}
	return true, dir.Chmod(name, fileMode)
}
