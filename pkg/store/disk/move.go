package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// create creates the image of a file system. The content of plain directories, from
// before the bound, is moved into it: it is copied to an image with a temporary
// name, which is renamed when everything is on the disk. At each moment, everything
// is in the plain directories or everything is in the image. The file KEY.moved
// says that the plain ones may be removed: nothing is removed without it and an
// image. It must be called with changeLock held and without users.
func (s *Store) create(ctx context.Context, d *disk) error {
	trees, err := s.trees(d)
	if err != nil {
		return err
	}
	marker := s.file(d.key, movedExtension)
	if len(trees) == 0 {
		// The marker of a move that was interrupted before its image was renamed.
		if err := remove(marker); err != nil {
			return err
		}
		if took, err := s.takeBlank(d.image); took || err != nil {
			return err
		}
		return Format(ctx, d.image, s.opts.Bytes, s.opts.UID, s.opts.GID)
	}
	s.opts.Logger.Info("moving files into a disk", "disk", d.key)
	part := s.file(d.key, partExtension)
	if err := s.removePart(d.key); err != nil {
		return err
	}
	err = s.fill(ctx, d, part, trees)
	if err == nil {
		err = errors.Join(touch(part), touch(marker), statefile.Sync(s.opts.Images))
	}
	if err == nil {
		err = errors.Join(os.Rename(part, d.image), statefile.Sync(s.opts.Images))
	}
	if err != nil {
		return errors.Join(err, s.removePart(d.key))
	}
	return nil
}

// entries lists the entries of a Tree that are moved.
type entries struct {
	Tree
	names []string
}

// trees returns the entries to move.
func (s *Store) trees(d *disk) ([]entries, error) {
	if s.opts.Plain == nil {
		return nil, nil
	}
	var all []entries
	for _, t := range s.opts.Plain(d.key) {
		list, err := os.ReadDir(t.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		e := entries{Tree: t}
		for _, f := range list {
			if !t.Dirs || f.IsDir() {
				e.names = append(e.names, f.Name())
			}
		}
		if len(e.names) > 0 {
			all = append(all, e)
		}
	}
	return all, nil
}

// fill creates an image and copies the trees into it.
func (s *Store) fill(ctx context.Context, d *disk, part string, trees []entries) (err error) {
	if err := Format(ctx, part, s.opts.Bytes, s.opts.UID, s.opts.GID); err != nil {
		return err
	}
	dir := s.file(d.key, filledExtension)
	if err := os.Mkdir(dir, privateMode); err != nil {
		return err
	}
	if err := attachAt(ctx, part, dir); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, unmount(part, dir))
		if err == nil {
			err = os.Remove(dir)
		}
	}()
	for _, t := range trees {
		if err := s.copyTree(ctx, t, dir); err != nil {
			return s.fullError(d, dir, err)
		}
	}
	top, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if err := unix.Syncfs(int(top.Fd())); err != nil {
		return fmt.Errorf("write the disk: %w", err)
	}
	return nil
}

// copyTree copies with cp, which keeps everything: owners, times, links, holes,
// attributes, special files, and names of any depth.
func (s *Store) copyTree(ctx context.Context, t entries, dir string) error {
	into := filepath.Join(dir, t.Into)
	if t.Into != "" {
		if err := os.Mkdir(into, privateMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	const batch = 500 // the number of arguments is bounded
	for names := t.names; len(names) > 0; {
		n := min(batch, len(names))
		args := []string{"-a", "--sparse=auto", "-t", into, "--"}
		for _, name := range names[:n] {
			args = append(args, filepath.Join(t.Path, name))
		}
		names = names[n:]
		if err := run(ctx, "cp", args...); err != nil {
			return err
		}
	}
	return nil
}

// fullError returns CodeTooLarge if a copy failed because the file system at dir is
// full, and err otherwise.
func (s *Store) fullError(d *disk, dir string, err error) error {
	const little = 256 // blocks or inodes
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Bavail > little && st.Ffree > little {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: fmt.Sprintf("the files of %s do not fit into a disk of %d MiB", d.key, s.opts.Bytes>>20),
		Hint: "nothing was changed: set disk_mib to more, or remove files of " + d.key, Err: err,
	}
}

// removeMoved empties the plain directories whose content is in the image, so that
// it does not stay below the mount point forever. Without the marker of a move it
// removes nothing: then the files are not from a move.
func (s *Store) removeMoved(d *disk) error {
	marker := s.file(d.key, movedExtension)
	moved, err := exists(marker)
	if err != nil {
		return err
	}
	if !moved {
		left, err := os.ReadDir(d.dir)
		if err != nil || len(left) == 0 {
			return err
		}
		return setupError(d.dir+" has files, but there is a disk to be mounted there",
			"move them away, and back when the disk is mounted: mv "+d.dir+" "+d.dir+".old", nil)
	}
	trees, err := s.trees(d)
	if err != nil {
		return err
	}
	for _, t := range trees {
		for _, name := range t.names {
			if err := os.RemoveAll(filepath.Join(t.Path, name)); err != nil {
				return err
			}
		}
	}
	return errors.Join(remove(marker), statefile.Sync(s.opts.Images))
}

// removePart removes an unfinished image.
func (s *Store) removePart(key string) error {
	part, dir := s.file(key, partExtension), s.file(key, filledExtension)
	return errors.Join(unmount(part, dir), remove(dir), remove(part), remove(part+tempExtension))
}

// touch creates a file if it is missing and syncs it.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
