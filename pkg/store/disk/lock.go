package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The locks of a file system are bytes of its lock file. Turn: one process at
// a time makes, mounts, grows, fills or unmounts it. Use: shared by all who
// use it, exclusive for what would pull it away from under them; it is only
// taken by who has the turn, and given back at any time. Held: shared by the
// processes that have reserved its space, exclusive to give the space back.
const (
	turn = 0
	use  = 1
	held = 2
)

// maxLockPause bounds the pause between two tries for a lock.
const maxLockPause = 25 * time.Millisecond

// errLocked says that another has a lock.
var errLocked = errors.New("locked")

// lockFile is the open file that locks belong to. They end with it and with
// the process. Unlike those of flock, one kind changes into the other without
// a moment of none.
type lockFile struct{ f *os.File }

func openLock(path string) (lockFile, error) {
	// The file stays for good: removing it would let two have "the" lock, one
	// on the removed file and one on its successor.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	return lockFile{f}, err
}

// try takes the lock of one byte: unix.F_RDLCK, F_WRLCK, or F_UNLCK to give it
// back. errLocked: another has it.
func (l lockFile) try(which int64, kind int16) error {
	for {
		err := unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: which, Len: 1})
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

// wait is try until ctx ends.
func (l lockFile) wait(ctx context.Context, which int64, kind int16) error {
	for pause := time.Millisecond; ; pause = min(2*pause, maxLockPause) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for the disk: %w", err)
		}
		if err := l.try(which, kind); !errors.Is(err, errLocked) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// close gives all locks back. A child between its fork and its exec has the
// open file too, and with it the locks: they are given back by name first.
func (l lockFile) close() {
	_ = l.try(turn, unix.F_UNLCK)
	_ = l.try(use, unix.F_UNLCK)
	_ = l.try(held, unix.F_UNLCK)
	_ = l.f.Close()
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
