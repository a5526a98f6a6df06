package disk

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Ballast reserves disk space for this program, in an allocated file without
// content. When other programs fill the disk, the file shrinks, so that versions,
// logs and the ledger can still be written, and a service that is restarted can
// start. It grows again when there is space. Its space counts as free. Its methods
// are safe for concurrent use; a nil *Ballast has no space.
type Ballast struct {
	path string
	size int64

	mu   sync.Mutex
	have int64 // guarded by mu
}

// lowBytes is the real free space that Adjust maintains while the Ballast has any.
const lowBytes = 64 << 20

// NewBallast returns a Ballast in a file, which Adjust creates and grows towards
// size bytes. The space of an existing file counts at once.
func NewBallast(path string, size int64) *Ballast {
	b := &Ballast{path: path, size: size}
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
		b.have = allocated(&st)
	}
	return b
}

// allocated returns the allocated part of the size of a file.
func allocated(st *unix.Stat_t) int64 { return min(st.Size, st.Blocks*512) }

// Bytes returns how much space the Ballast reserves now.
func (b *Ballast) Bytes() int64 {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.have
}

// Adjust shrinks the file if the disk has less than lowBytes free, and grows it if
// the disk has more than twice that. It is called at the start and about once a
// second. A disk that is too full for the file is not an error.
func (b *Ballast) Adjust() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size == 0 {
		b.have = 0
		return machineError("remove the reserve of the disk", remove(b.path))
	}
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if errors.Is(err, unix.ENOSPC) {
		b.have = 0
		return nil
	}
	if err != nil {
		return machineError("open the reserve of the disk", err)
	}
	defer f.Close()
	return machineError("adjust the reserve of the disk", b.adjust(f))
}

func (b *Ballast) adjust(f *os.File) error {
	free, err := freeBelow(b.path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	have := allocated(&st)
	want := have
	switch {
	case free < lowBytes:
		want = max(0, have-(2*lowBytes-free))
	case free > 2*lowBytes:
		want = max(have, min(b.size, have+free-2*lowBytes))
	}
	want = min(want, b.size) / blockSize * blockSize
	if want < st.Size {
		if err := f.Truncate(want); err != nil {
			return err
		}
	}
	if want > have {
		if err = fallocate(f, 0, want); errors.Is(err, unix.ENOSPC) {
			err = f.Truncate(have) // another program took the space
		}
	}
	if err := errors.Join(err, os.NewSyscallError("fstat", unix.Fstat(int(f.Fd()), &st))); err != nil {
		return err
	}
	b.have = allocated(&st)
	return nil
}
