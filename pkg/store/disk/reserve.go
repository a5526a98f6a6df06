package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Reserve allocates, on the disk of the host, every block that the file system of
// key may still use, until release is called. An image is sparse and grows while
// programs write to it; if the host's disk were full by then, blocks that programs
// were told are written would be lost, and ext4 would abort its journal. Once
// allocated, the blocks can be taken neither by another user nor by a program on
// the host.
//
// spare is the number of bytes of the host's disk that must stay free beyond that.
// CodeSetup: there is not enough space, or the machine cannot mount the file
// system. ErrFailed: the file system does not accept writes; see Repair. A
// reservation is also a use: the file system stays mounted until release, which may
// be called more than once.
//
// If the host's file system cannot allocate ahead (no fallocate), only the free
// space is compared, as by CheckRoom.
func (s *Store) Reserve(ctx context.Context, key string, spare int64) (release func(), err error) {
	if err := s.CheckRoom(key, spare); err != nil {
		return nil, err // before a file system is created in vain
	}
	dir, unuse, err := s.Acquire(ctx, key)
	if err != nil {
		return nil, err
	}
	d := s.disk(key)
	if err := s.reserve(ctx, d, dir, spare); err != nil {
		unuse()
		return nil, err
	}
	return sync.OnceFunc(func() {
		s.endReservation(d)
		unuse()
	}), nil
}

func (s *Store) reserve(ctx context.Context, d *disk, dir string, spare int64) error {
	if err := Probe(dir); err != nil {
		return err
	}
	if err := d.lockContext(ctx); err != nil {
		return err
	}
	defer d.unlock()
	if d.reserved == 0 {
		// Another process may be returning its reservation.
		if err := d.locks.wait(ctx, reserveLock, statefile.Shared); err != nil {
			return fmt.Errorf("reserve the space of the disk: %w", err)
		}
	}
	if err := s.allocateInTurn(ctx, d, spare); err != nil {
		if d.reserved == 0 {
			s.unreserve(d)
		}
		return err
	}
	d.reserved++
	return nil
}

// allocateInTurn is allocate, one at a time: for this process, its check and its
// allocation are atomic. The holder of allocating waits for nothing, in particular
// not for the disk of one user, whose trimming may take long.
func (s *Store) allocateInTurn(ctx context.Context, d *disk, spare int64) error {
	select {
	case s.allocating <- struct{}{}:
		defer func() { <-s.allocating }()
		return s.allocate(d, spare)
	case <-ctx.Done():
		return fmt.Errorf("wait for space of the disk: %w", context.Cause(ctx))
	}
}

// allocate fills the holes of the image. It must be called with d locked.
func (s *Store) allocate(d *disk, spare int64) error {
	if err := s.CheckRoom(d.key, spare); err != nil {
		return err
	}
	f, err := os.OpenFile(d.image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return machineError("reserve the space of the disk", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil {
		err = fallocate(f, unix.FALLOC_FL_KEEP_SIZE, info.Size())
	}
	return machineError("reserve the space of the disk", err)
}

// fallocate allocates the first size bytes of a file without changing its content.
// A file system without that call is not an error.
func fallocate(f *os.File, mode uint32, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), mode, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil
		default:
			return os.NewSyscallError("fallocate", err)
		}
	}
}

// endReservation ends one reservation. After the last one, unused blocks are
// returned to the disk of the host.
func (s *Store) endReservation(d *disk) {
	d.lock()
	defer d.unlock()
	d.reserved--
	if d.reserved == 0 {
		s.unreserve(d)
	}
}

// unreserve returns the unused blocks, unless another process has reserved them
// too. It must be called with d locked.
func (s *Store) unreserve(d *disk) {
	if d.locks.try(reserveLock, statefile.Exclusive) == nil {
		trim(d.dir)
	}
	_ = d.locks.try(reserveLock, statefile.Unlocked)
}

// trim is fstrim: unused blocks become holes of the image. The kernel skips groups
// of blocks that it has trimmed before, and does not know that Reserve has
// allocated them since; a first, small pass with a larger minimum length makes it
// forget that (ext4_trim_fs compares the two). If the host's file system cannot
// punch holes, the space stays allocated, which is not an error.
func trim(dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	defer d.Close()
	_ = unix.Syncfs(int(d.Fd()))
	const few = 1 << 20
	_ = trimRange(d, few, few)
	_ = trimRange(d, ^uint64(0), 0)
}

func trimRange(d *os.File, length, least uint64) error {
	r := struct{ start, length, least uint64 }{length: length, least: least}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), fitrim, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}

// detachTries bounds the wait until the loop device of an unmounted image is
// detached.
const detachTries = 20

// punchHoles makes holes of the blocks of an image that were allocated and never
// written, which trim does not find: the tables and the journal of the file system
// itself. The image must be unmounted and its locks held. An image that is still
// attached, by a sandbox that is ending, is left alone, because a concurrent write
// into a range would be lost.
func punchHoles(ctx context.Context, image string) error {
	for try := 0; ; try++ {
		dev, err := findAttached(ctx, image)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if dev == nil {
			break
		}
		_ = dev.Close()
		if try == detachTries {
			return nil
		}
		if err := sleep(ctx, loopPause); err != nil { // it may be being detached
			return err
		}
	}
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fd, size := int(f.Fd()), info.Size()
	for data := int64(0); data < size; {
		// Ranges that are allocated but not written count as holes.
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil || hole >= size {
			return os.NewSyscallError("lseek", err)
		}
		data, err = unix.Seek(fd, hole, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = size // no more data
		} else if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, hole, data-hole)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fallocate", err)
		}
	}
	return nil
}

// ErrFailed means that a file system no longer accepts writes: the kernel has
// stopped its journal after a write to the disk of the host failed. Its content can
// still be read. Repair makes it usable again.
var ErrFailed = errors.New("the file system does not accept writes")

// Probe tries to write to the file system of dir. The error wraps ErrFailed if it
// does not accept writes. A full file system is not an error.
func Probe(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return machineError("probe the disk", err)
	}
	return errors.Join(ProbeAt(d), d.Close())
}

// ProbeAt is Probe for an open directory.
func ProbeAt(dir *os.File) error {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode)
	if err == nil {
		f := os.NewFile(uintptr(fd), "probe")
		_, err = f.Write([]byte{1})
		err = errors.Join(err, f.Sync(), f.Close())
	}
	switch {
	case err == nil, statefile.IsFull(err):
		return nil
	case IsFailure(err):
		return failedError(dir.Name(), err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		return nil // it does not support O_TMPFILE, so it is not one of ours
	}
	return machineError("probe the disk", err)
}

// IsFailure reports whether err is one that a program gets from a file system in
// the state of ErrFailed.
func IsFailure(err error) bool {
	for _, e := range []error{ErrFailed, unix.EROFS, unix.EIO, unix.EUCLEAN, unix.ESHUTDOWN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func failedError(dir string, err error) error {
	return setupError("the disk at "+dir+" does not accept writes",
		"free space on the disk of the state directory (df -h); the disk is repaired at its next use, and dmesg shows why it failed", fmt.Errorf("%w: %w", ErrFailed, err))
}

// Repair unmounts a file system that has failed, so that the next use checks it
// (e2fsck) and mounts it again. It waits, until ctx ends, for the uses in this
// process to end: the caller must have stopped its sandboxes. CodeSetup: it is
// still in use, or e2fsck cannot repair it without being asked.
func (s *Store) Repair(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	d := s.disk(key)
	used := false
	err := d.lockWhen(ctx, func() bool { used = d.users > 0; return !used })
	if err != nil && !used {
		return err
	}
	if err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonInUse, Message: "the disk of the user cannot be repaired while it is in use",
			Hint: "stop the sandbox user-" + key, Err: err,
		}
	}
	defer d.unlock()
	busy, err := s.retire(d)
	if err != nil {
		return err
	}
	if busy {
		return setupError("the disk of the user cannot be repaired while another process uses it",
			"end the other commands that use "+filepath.Base(d.image)+", then try again", nil)
	}
	d.failed = true
	s.opts.Logger.Warn("a failed disk was unmounted; it will be checked and mounted at its next use", "disk", key)
	return nil
}
