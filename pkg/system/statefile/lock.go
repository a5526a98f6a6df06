package statefile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned when a lock is held through another open file, by this
// process or another one. It wraps EWOULDBLOCK.
var ErrLocked = fmt.Errorf("locked: %w", unix.EWOULDBLOCK)

// maxPause bounds the pause between two attempts to take a lock.
const maxPause = 25 * time.Millisecond

// TryLock takes the exclusive lock (flock) of an open file or directory, or
// returns ErrLocked. The lock belongs to the open file: it ends with Unlock, when
// f and its duplicates are closed, and when the process dies. A lock file must
// never be removed, or two processes could hold "the" lock: one on the removed
// file and one on its successor.
func TryLock(f *os.File) error {
	return try(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
}

// Lock is TryLock that waits for the lock until ctx ends, and then returns the
// error of ctx.
func Lock(ctx context.Context, f *os.File) error {
	return Wait(ctx, func() error { return TryLock(f) })
}

// Unlock releases the lock that TryLock or Lock took.
func Unlock(f *os.File) error {
	return try(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) })
}

// Locked reports whether the lock is held through another open file than f, which
// must not hold it. For a moment, Locked holds the lock itself.
func Locked(f *os.File) bool {
	err := TryLock(f)
	if err == nil {
		_ = Unlock(f)
	}
	return errors.Is(err, ErrLocked)
}

// Wait calls take until it returns something other than ErrLocked, and returns
// that. When ctx ends first, Wait returns the error of ctx.
func Wait(ctx context.Context, take func() error) error {
	for pause := time.Millisecond; ; pause = min(2*pause, maxPause) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := take(); !errors.Is(err, ErrLocked) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// Mode is how a byte range is locked.
type Mode int16

// Modes of a byte range.
const (
	Shared    Mode = unix.F_RDLCK
	Exclusive Mode = unix.F_WRLCK
	Unlocked  Mode = unix.F_UNLCK
)

// TryRange changes the lock of length bytes of f from offset start on, or returns
// ErrLocked. A length of 0 reaches to the end of the file. Like flock, such a lock
// (an open file description lock) belongs to the open file. Unlike flock, one
// file can carry several of them, one mode changes into another without a moment
// in which nothing is locked, and a lock can be queried without being taken.
// Shared needs f to be open for reading, Exclusive for writing.
func TryRange(f *os.File, mode Mode, start, length int64) error {
	return try(func() error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: int16(mode), Whence: io.SeekStart, Start: start, Len: length})
	})
}

// RangeLocked reports whether any byte of f is locked through another open file.
func RangeLocked(f *os.File) (bool, error) {
	holder := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err := try(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &holder) })
	return holder.Type != unix.F_UNLCK, err
}

// try repeats a system call that a signal has interrupted.
func try(call func() error) error {
	for {
		switch err := call(); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrLocked
		default:
			return os.NewSyscallError("lock", err)
		}
	}
}
