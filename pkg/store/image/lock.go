package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLockPause bounds the pause between two attempts to take the lock of pulls.
const maxLockPause = 250 * time.Millisecond

// errLocked is the error for a lock that is held by another process or Store.
var errLocked = errors.New("locked")

// lock takes a lock, unix.F_RDLCK or unix.F_WRLCK, on the open file f. With
// unix.F_OFD_SETLKW it waits, with unix.F_OFD_SETLK it returns errLocked at once.
// Like a lock of flock(2), it belongs to the open file and ends with it or with
// the process; unlike such a lock, it can be queried without being taken, so
// libraries for flock do not help here.
func lock(f *os.File, kind int16, how int) error {
	for {
		err := unix.FcntlFlock(f.Fd(), how, &unix.Flock_t{Type: kind, Whence: io.SeekStart})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return errLocked
		default:
			return fmt.Errorf("lock: %w", err)
		}
	}
}

// tryLockPulls takes the lock of pulls, which one pull at a time holds, or returns
// errLocked.
func (s *Store) tryLockPulls() (unlock func(), err error) {
	// The file is never removed: two pulls could hold the lock otherwise, one on
	// the removed file and one on its successor.
	f, err := s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, diskError("open the lock of pulls", err)
	}
	if err := lock(f, unix.F_WRLCK, unix.F_OFD_SETLK); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// lockPulls waits for the lock until ctx ends.
func (s *Store) lockPulls(ctx context.Context) (unlock func(), err error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, maxLockPause) {
		unlock, err = s.tryLockPulls()
		if !errors.Is(err, errLocked) {
			return unlock, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another pull: %w", context.Cause(ctx))
		}
	}
}

// sweep removes the files of interrupted pulls and prunes. It must be called with
// the lock of pulls held.
func (s *Store) sweep() {
	dirs, err := s.dirs()
	if err != nil {
		s.opts.Logger.Warn("look for files of interrupted pulls", "error", err)
		return
	}
	for _, dir := range dirs {
		if !strings.HasPrefix(dir, pullStart) && !strings.HasPrefix(dir, goneStart) {
			continue
		}
		if err := s.root.RemoveAll(dir); err != nil {
			s.opts.Logger.Warn("remove the files of an interrupted pull", "directory", dir, "error", err)
		}
	}
}

// lockShared takes the lock of an image, shared with all other uses. It waits for
// a prune in progress, which removes the image: then the error is errNotHere.
func (s *Store) lockShared(dir string) (*os.File, error) {
	f, err := s.root.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotHere
	}
	if err != nil {
		return nil, err
	}
	if err = lock(f, unix.F_RDLCK, unix.F_OFD_SETLKW); err == nil {
		err = s.stillThere(dir, f)
	}
	if err == nil {
		s.touch(dir)
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// lockExclusive takes the lock of an image that is not in use. The file is nil if
// the image is in use or gone. If a broken image lacks the file, it is created.
func (s *Store) lockExclusive(dir string) (*os.File, error) {
	f, err := s.root.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, fileMode)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err = lock(f, unix.F_WRLCK, unix.F_OFD_SETLK); err == nil {
		err = s.stillThere(dir, f)
	}
	if err == nil {
		return f, nil
	}
	closed := f.Close()
	if errors.Is(err, errLocked) || errors.Is(err, errNotHere) {
		return nil, closed
	}
	return nil, errors.Join(err, closed)
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
	holder := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &holder); err != nil {
		return false, diskError("examine the image", err)
	}
	return holder.Type != unix.F_UNLCK, nil
}

// releaser returns the function that ends a use.
func (s *Store) releaser(dir string, f *os.File) func() {
	return sync.OnceFunc(func() {
		s.touch(dir)
		_ = f.Close() // nothing was written
	})
}

// touch notes that an image was used. A failure does not stop the use.
func (s *Store) touch(dir string) {
	now := time.Now()
	if err := s.root.Chtimes(filepath.Join(dir, lockFile), now, now); err != nil {
		s.opts.Logger.Warn("note the use of an image", "image", dir, "error", err)
	}
}
