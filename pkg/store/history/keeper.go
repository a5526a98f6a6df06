package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// keeper chooses the versions that stay, and collects the objects that they need.
type keeper struct {
	ctx     context.Context
	repo    *repo
	shallow map[plumbing.Hash]bool // commits that are without their parents already

	kept     map[plumbing.Hash]bool
	bytes    int64           // of kept
	fresh    []plumbing.Hash // of kept: added by the commits that are examined
	boundary map[plumbing.Hash]bool
}

// choose goes back from head, by the number of steps from it, until the next
// commits no longer fit into limit bytes. The commits of the last step become the
// boundary: all parents of all other commits stay too, as a repository must have
// them.
func (k *keeper) choose(head plumbing.Hash, limit int64) error {
	level := []plumbing.Hash{head}
	parents, err := k.add(level)
	if err != nil {
		return err
	}
	for len(parents) > 0 {
		k.fresh = nil
		next, err := k.add(parents)
		if k.ctx.Err() != nil {
			return k.ctx.Err()
		}
		if isShortage(err) {
			return err
		}
		if err != nil || k.bytes > limit { // a version that cannot be read is not worth keeping
			for _, hash := range k.fresh {
				delete(k.kept, hash)
			}
			break
		}
		level, parents = parents, next
	}
	return k.setBoundary(level, len(parents) > 0)
}

// isShortage reports whether err is about the machine and not about the version
// that could not be read: the process may have too many open files, or the
// machine no memory.
func isShortage(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && !slices.Contains([]syscall.Errno{syscall.ENOENT, syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG}, errno)
}

// setBoundary collects the commits that are kept without their parents.
func (k *keeper) setBoundary(last []plumbing.Hash, more bool) error {
	k.boundary = map[plumbing.Hash]bool{}
	for hash := range k.shallow {
		if k.kept[hash] {
			k.boundary[hash] = true
		}
	}
	if !more {
		return nil
	}
	for _, hash := range last {
		c, err := object.GetCommit(k.repo.store, hash)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(c.ParentHashes, func(p plumbing.Hash) bool { return !k.kept[p] }) {
			k.boundary[hash] = true
		}
	}
	return nil
}

// add keeps commits with all objects that they need, and returns those of their
// parents that are not kept yet.
func (k *keeper) add(commits []plumbing.Hash) (parents []plumbing.Hash, err error) {
	seen := map[plumbing.Hash]bool{}
	for _, hash := range commits {
		if err := k.keep(hash); err != nil {
			return nil, err
		}
		c, err := object.GetCommit(k.repo.store, hash)
		if err != nil {
			return nil, err
		}
		if err := k.tree(c.TreeHash, 1); err != nil {
			return nil, err
		}
		if k.shallow[hash] {
			continue
		}
		for _, p := range c.ParentHashes {
			if !seen[p] {
				seen[p] = true
				parents = append(parents, p)
			}
		}
	}
	return slices.DeleteFunc(parents, func(hash plumbing.Hash) bool { return k.kept[hash] }), nil
}

// keep keeps one object.
func (k *keeper) keep(hash plumbing.Hash) error {
	if k.kept[hash] {
		return nil
	}
	info, err := os.Lstat(loosePath(filepath.Join(k.repo.dir, objectsDir), hash))
	switch {
	case err == nil:
		k.bytes += blocks(info)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default: // in a pack, which is never removed
		if err := k.repo.store.HasEncodedObject(hash); err != nil {
			return fmt.Errorf("object %s: %w", hash, err)
		}
	}
	k.kept[hash] = true
	k.fresh = append(k.fresh, hash)
	return nil
}

func (k *keeper) tree(hash plumbing.Hash, depth int) error {
	if k.kept[hash] {
		return nil
	}
	if err := k.ctx.Err(); err != nil {
		return err
	}
	if depth > MaxDepth+1 {
		return errBeyond
	}
	if err := k.keep(hash); err != nil {
		return err
	}
	raw, err := k.repo.readTree(hash)
	if err != nil {
		return err
	}
	for len(raw) > 0 {
		var e object.TreeEntry
		if e, raw, err = nextEntry(raw); err != nil {
			return err
		}
		switch e.Mode {
		case filemode.Submodule:
		case filemode.Dir:
			err = k.tree(e.Hash, depth+1)
		default:
			err = k.keep(e.Hash)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
