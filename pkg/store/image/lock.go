package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// lock takes a lock on the open file f, or returns statefile.ErrLocked.
func lock(f *os.File, mode statefile.Mode) error { return statefile.TryRange(f, mode, 0, 0) }

// tryLockPulls takes the lock of pulls, which one pull at a time holds, or returns
// statefile.ErrLocked.
func (s *Store) tryLockPulls() (unlock func(), err error) {
	// The file is never removed: two pulls could hold the lock otherwise, one on
	// the removed file and one on its successor.
	f, err := s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, diskError("open the lock of pulls", err)
	}
	if err := lock(f, statefile.Exclusive); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// lockPulls waits for the lock until ctx ends.
func (s *Store) lockPulls(ctx context.Context) (unlock func(), err error) {
	err = statefile.Wait(ctx, func() error {
		unlock, err = s.tryLockPulls()
		return err
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil, fmt.Errorf("wait for another pull: %w", context.Cause(ctx))
	}
	return unlock, err
}

// sweep removes the files of interrupted pulls and prunes. It must be called with
// the lock of pulls held.
func (s *Store) sweep() {
	dirs, err := statefile.Names(s.root, func(name string) bool {
		return strings.HasPrefix(name, pullStart) || strings.HasPrefix(name, goneStart)
	})
	if err != nil {
		s.opts.Logger.Warn("look for files of interrupted pulls", "error", err)
	}
	for _, dir := range dirs {
		if err := s.root.RemoveAll(dir); err != nil {
			s.opts.Logger.Warn("remove the files of an interrupted pull", "directory", dir, "error", err)
		}
	}
}

// lockShared takes the lock of an image, shared with all other uses. It waits for
// a prune in progress; if that removes the image, it returns errNotHere.
func (s *Store) lockShared(dir string) (*os.File, error) {
	f, err := s.lockImage(dir, 0, func(f *os.File) error {
		return statefile.Wait(context.Background(), func() error { return lock(f, statefile.Shared) })
	})
	if err == nil {
		s.touch(dir)
	}
	return f, err
}

// lockExclusive takes the lock of an image that is not in use. The file is nil if
// the image is in use or gone. If a broken image lacks the file, it is created.
func (s *Store) lockExclusive(dir string) (*os.File, error) {
	f, err := s.lockImage(dir, os.O_CREATE, func(f *os.File) error { return lock(f, statefile.Exclusive) })
	if errors.Is(err, statefile.ErrLocked) || errors.Is(err, errNotHere) {
		return nil, nil
	}
	return f, err
}

// lockImage opens the lock of the image in dir and takes it. If the image is gone by
// then, it returns errNotHere.
func (s *Store) lockImage(dir string, flags int, take func(*os.File) error) (*os.File, error) {
	f, err := s.root.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|flags, fileMode)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotHere
	}
	if err != nil {
		return nil, err
	}
	if err = take(f); err == nil {
		err = s.stillThere(dir, f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// stillThere returns errNotHere unless f is the lock of the current image in dir:
// the image may have been removed, and pulled again, since f was opened.
func (s *Store) stillThere(dir string, f *os.File) error {
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := s.root.Stat(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(ours, now) {
		return errNotHere
	}
	return err
}

// inUse reports whether the lock of an image is held.
func (s *Store) inUse(dir string) (bool, error) {
	f, err := s.root.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, diskError("examine the image", err)
	}
	defer f.Close()
	used, err := statefile.RangeLocked(f)
	if err != nil {
		return false, diskError("examine the image", err)
	}
	return used, nil
}

// touch notes that an image was used. A failure does not stop the use.
func (s *Store) touch(dir string) {
	now := time.Now()
	if err := s.root.Chtimes(filepath.Join(dir, lockFile), now, now); err != nil {
		s.opts.Logger.Warn("note the use of an image", "image", dir, "error", err)
	}
}
