package journal

import (
	"errors"
	"golang.org/x/sys/unix"
	"math"
)

// reserveStep is how much space is allocated beyond the required size.
const reserveStep = 64 << 10

// reserve allocates disk space for n more bytes and, after them, for the terminal
// event: a job whose sandbox fills the disk can still end with an event that says
// so. A file system that cannot allocate ahead is used without.
func (l *Log) reserve(n int) error {
	need := l.size + int64(n) + terminalReserve
	if need <= l.reserved {
		return nil
	}
	length := need - l.size + reserveStep
	err := unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, l.size, length)
	if errors.Is(err, unix.ENOSPC) && n > 0 {
		// The required space alone may still fit.
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
