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
)

// Reserve allocates, on the disk of the host, every block that the file system
// of key may still take, until release is called. An image is sparse and grows
// while programs write into it; if the host's disk were full by then, blocks
// that programs were told are written would be lost, and ext4 would abort its
// journal. With the blocks allocated neither another user nor a program on the
// host can take them away.
//
// spare bytes of the host's disk must stay free beyond that. CodeSetup: there
// is no room, or the machine cannot mount the file system. ErrFailed: the file
// system does not take writes; see Repair. A reservation also is a use: the
// file system stays mounted until release, which may be called more than once.
//
// Where the host's file system cannot allocate ahead (no fallocate), only the
// free space is compared, as CheckRoom does.
func (s *Store) Reserve(ctx context.Context, key string, spare int64) (release func(), err error) {
	if err := s.CheckRoom(key, spare); err != nil {
		return nil, err // before a file system is made for nothing
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
		s.giveBack(d)
		unuse()
	}), nil
}

func (s *Store) reserve(ctx context.Context, d *disk, dir string, spare int64) error {
	if err := Probe(dir); err != nil {
		return err
	}
	if err := d.enterBefore(ctx); err != nil {
		return err
	}
	defer d.leave()
	if d.reserved == 0 {
		// Another process may give its reservation back at this moment.
		if err := d.lock.wait(ctx, held, unix.F_RDLCK); err != nil {
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

// allocateInTurn is allocate, one at a time: its check and its allocation are
// one step for this process. Whoever has the turn waits for nothing, least of
// all for the disk of one user, which may be trimmed for long.
func (s *Store) allocateInTurn(ctx context.Context, d *disk, spare int64) error {
	select {
	case s.allocating <- struct{}{}:
		defer func() { <-s.allocating }()
		return s.allocate(d, spare)
	case <-ctx.Done():
		return fmt.Errorf("wait for space of the disk: %w", context.Cause(ctx))
	}
}

// allocate fills the holes of the image. The caller has entered d.
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
	if err != nil {
		return machineError("reserve the space of the disk", err)
	}
	return machineErrorOrNil("reserve the space of the disk", fallocate(f, unix.FALLOC_FL_KEEP_SIZE, info.Size()))
}

// fallocate allocates the first size bytes of a file without changing what it
// holds. A file system that has no such call is no error.
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

func machineErrorOrNil(action string, err error) error {
	if err == nil {
		return nil
	}
	return machineError(action, err)
}

// giveBack ends one reservation. After the last one the blocks that no file
// has go back to the disk of the host.
func (s *Store) giveBack(d *disk) {
	d.enter()
	defer d.leave()
	d.reserved--
	if d.reserved == 0 {
		s.unreserve(d)
	}
}

// unreserve returns the unused blocks, unless another process has reserved
// them too. The caller has entered d.
func (s *Store) unreserve(d *disk) {
	if d.lock.try(held, unix.F_WRLCK) == nil {
		trim(d.dir)
	}
	_ = d.lock.try(held, unix.F_UNLCK)
}

// trim is fstrim: blocks that no file has become holes of the image. The kernel
// passes over groups of blocks that it has trimmed before, and does not know
// that Reserve has allocated them since; a first, small pass with a larger
// least length makes it forget that (ext4_trim_fs compares the two). A disk of
// the host that cannot punch holes keeps the space; that is no reason to fail.
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

// detachTries bounds the wait for the loop device of an unmounted image to go.
const detachTries = 20

// thin makes holes of what was allocated in an image and never written, which
// trim does not find: the tables and the journal of the file system itself. The
// caller has unmounted it and has all locks; an image that is still attached,
// by a sandbox that is about to end, is left alone, because a write into a
// range that is being looked at would be lost.
func thin(ctx context.Context, image string) error {
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
		if err := sleep(ctx, loopPause); err != nil { // perhaps it is just going
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
		// Ranges that are allocated and not written count as holes.
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

// ErrFailed says that a file system does not take writes any more: the kernel
// has stopped its journal, after a write to the disk of the host failed. What
// it holds can be read. Repair brings it back.
var ErrFailed = errors.New("the file system does not take writes")

// Probe writes to the file system that dir is on. ErrFailed is in the chain
// when it does not take writes. A file system that is full does.
func Probe(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return machineError("try the disk", err)
	}
	return errors.Join(ProbeAt(d), d.Close())
}

// ProbeAt is Probe of an open directory.
func ProbeAt(dir *os.File) error {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode)
	if err == nil {
		f := os.NewFile(uintptr(fd), "probe")
		_, err = f.Write([]byte{1})
		err = errors.Join(err, f.Sync(), f.Close())
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return nil
	case IsFailure(err):
		return failedError(dir.Name(), err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		return nil // a file system without nameless files, so none of ours
	}
	return machineError("try the disk", err)
}

// IsFailure reports whether err is what a program sees of a file system that
// ErrFailed is about.
func IsFailure(err error) bool {
	for _, e := range []error{ErrFailed, unix.EROFS, unix.EIO, unix.EUCLEAN, unix.ESHUTDOWN} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func failedError(dir string, err error) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "the disk at " + dir + " does not take writes",
		Hint: "free space on the disk of the state directory (df -h); the disk is repaired when it is next used, and dmesg tells why it failed",
		Err:  fmt.Errorf("%w: %w", ErrFailed, err),
	}
}

// Repair unmounts a file system that has failed, so that the next use checks
// it (e2fsck) and mounts it again. It waits, until ctx ends, for the uses of
// this process to end: the caller ends its sandboxes first. CodeSetup: it is
// still in use, or damaged beyond what e2fsck repairs without being asked.
func (s *Store) Repair(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	d := s.disk(key)
	for {
		if err := d.enterBefore(ctx); err != nil {
			return err
		}
		if d.users == 0 {
			break
		}
		d.leave()
		if err := sleep(ctx, busyPause); err != nil {
			return &dreamcore.Error{
				Code: dreamcore.CodeSetup, Message: "the disk of the user cannot be repaired while it is used", Err: err,
				Hint: "end the sandbox of the user: dreamcore sandbox stop user-" + key,
			}
		}
	}
	defer d.leave()
	busy, err := s.retire(d)
	if err != nil {
		return err
	}
	if busy {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the disk of the user cannot be repaired while another process uses it",
			Hint: "end the other commands that work on " + filepath.Base(d.image) + ", then try again",
		}
	}
	d.failed = true
	s.opts.Logger.Warn("a disk that had failed was unmounted; it is checked and mounted at its next use", "disk", key)
	return nil
}
