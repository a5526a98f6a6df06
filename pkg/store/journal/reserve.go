package journal

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// reserveStep is how much more is reserved at a time.
const reserveStep = 64 << 10

// reserve takes room on the disk for n more bytes and, behind them, for the
// terminal event: a job whose sandbox fills the disk can still end with an
// event that says so. A file system that cannot reserve goes without.
func (l *Log) reserve(n int) error {
	need := l.size + int64(n) + terminalReserve
	if need <= l.reserved {
		return nil
	}
	length := need - l.size + reserveStep
	err := unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, l.size, length)
	if errors.Is(err, unix.ENOSPC) && n > 0 {
		// Just what is needed may still fit.
		length = need - l.size
		err = unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, l.size, length)
	}
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		l.reserved = math.MaxInt64
		return nil
	case err != nil:
		return err
	}
	l.store.room.grow(l.size + length - max(l.reserved, l.size))
	l.reserved = l.size + length
	return nil
}

// hold marks a log as being written, for other processes on the same
// directory. It is free again when the file is closed, also by a crash.
func hold(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// holdNew is hold for a log that was just made: somebody may be looking at it,
// but nobody else writes it.
func holdNew(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// held tells whether another process writes the log.
func held(f *os.File) bool {
	if err := hold(f); err != nil {
		return errors.Is(err, unix.EWOULDBLOCK)
	}
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	return false
}
