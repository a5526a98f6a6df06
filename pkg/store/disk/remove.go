package disk

import (
	"context"
	"errors"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Remove removes the file system of a key with everything in it, and all files of
// the key in the directory of images. It waits until nothing uses it. A plain
// directory, and the mount point, stay. The caller makes sure that the key is not
// acquired meanwhile, also by other processes. It may be called again after an error
// or a crash; the lock file is removed last.
func (s *Store) Remove(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	const action = "remove a disk"
	d := s.disk(key)
	for {
		if err := d.lockContext(ctx); err != nil {
			return machineError(action, err)
		}
		if d.users == 0 {
			break
		}
		d.unlock()
		if err := sleep(ctx, busyPause); err != nil {
			return machineError(action, err)
		}
	}
	defer d.unlock()
	path := s.file(key, lockExtension)
	lock, err := exists(path)
	image, err2 := exists(d.image)
	if err := errors.Join(err, err2); err != nil || !lock && !image {
		return err
	}
	l, err := openLock(path)
	if err != nil {
		return machineError(action, err)
	}
	defer l.close()
	if err := s.removeLocked(ctx, d, l); err != nil {
		return machineError(action, err)
	}
	if err := errors.Join(remove(path), statefile.Sync(s.opts.Images)); err != nil {
		return machineError(action, err)
	}
	return nil
}

func (s *Store) removeLocked(ctx context.Context, d *disk, l lockFile) error {
	for _, which := range []int64{changeLock, useLock, reserveLock} {
		if err := l.wait(ctx, which, statefile.Exclusive); err != nil {
			return err
		}
	}
	if err := unmount(d.image, d.dir); err != nil {
		return err
	}
	err := errors.Join(s.removePart(d.key), remove(d.image+tempExtension), remove(s.file(d.key, movedExtension)), remove(d.image))
	d.failed, d.warned, d.plain = false, false, false
	return err
}

// isCurrent reports whether the lock file is still the one at path: Remove removes
// it, and a lock on a removed file excludes no process.
func (l lockFile) isCurrent(path string) bool {
	mine, err := l.f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, now)
}
