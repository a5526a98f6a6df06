package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// hostBytes are reserved for the version and the log that the host writes of one
// job or change.
const hostBytes = 64 << 20

// repairLimit limits the wait until a failed file system is no longer in use.
const repairLimit = 30 * time.Second

// Room is space of the host's disk that is reserved for one job or change: as
// much as the user's file system can still grow, and hostBytes for the version
// and the log. It is allocated and not only counted, so all rooms together never
// exceed the disk, and a program that fills the disk cannot take any of it.
type Room struct {
	release func()
	host    *os.File // nil if the disk cannot allocate space
	free    sync.Once
}

// Reserve reserves the room for one job or change of a user. Options.MinFreeBytes
// stay free in addition. If the file system of the user has failed (because the
// host's disk was full, or broken), Reserve repairs it first, for which it ends
// the user's sandbox. CodeSetup: there is no room, or the file system cannot be
// repaired. The caller must Close the Room after everything that it opened of the
// user.
func (s *Store) Reserve(ctx context.Context, user dreamcore.UserID) (_ *Room, err error) {
	r := &Room{release: func() {}}
	if err := s.CheckFree(); err != nil {
		return nil, err
	}
	leave, err := s.enter(ctx, user, "", true) // until the file system is in use
	if err != nil {
		return nil, err
	}
	defer leave()
	if s.disks != nil {
		if err := s.makeUsers(); err != nil {
			return nil, s.UserError("reserve the space of the user", err)
		}
		r.release, err = s.disks.Reserve(ctx, string(user), max(hostBytes, s.opts.MinFreeBytes)+hostBytes)
		if errors.Is(err, disk.ErrFailed) {
			s.log.Error("the disk of a user has failed and is being repaired", "user", string(user), "error", err)
			if err := s.Repair(ctx, user); err != nil {
				return nil, err
			}
			r.release, err = s.disks.Reserve(ctx, string(user), max(hostBytes, s.opts.MinFreeBytes)+hostBytes)
		}
		if err != nil {
			return nil, err
		}
	}
	r.host, err = allocate(s.volumes, hostBytes)
	// Some file systems have no unnamed files, or cannot allocate space.
	unsupported := errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOSYS)
	if err != nil && !unsupported {
		r.release()
		return nil, tree.DiskError("reserve the space of a version", err)
	}
	return r, nil
}

// makeUsers makes the directory that the file systems of users are mounted in.
func (s *Store) makeUsers() error {
	users, err := s.makeInData(usersDir)
	if err != nil {
		return err
	}
	return users.Close()
}

// allocate allocates disk space in an unnamed file in root, which ends with the
// process.
func allocate(root *os.Root, bytes int64) (*os.File, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), "reserve")
	for {
		err = unix.Fallocate(fd, 0, 0, bytes)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("fallocate", err), f.Close())
	}
	return f, nil
}

// FreeForHost releases the space for the version and the log, so that they can be
// written.
func (r *Room) FreeForHost() {
	r.free.Do(func() {
		if r.host != nil {
			_ = r.host.Close() // it has no name and no content
		}
	})
}

// Close releases the room. It may be called more than once.
func (r *Room) Close() {
	r.FreeForHost()
	r.release()
}

// OnRepair sets the function that ends the sandbox of a user: a file system
// cannot be repaired while a sandbox has it mounted. OnRepair must be called
// before the first Reserve.
func (s *Store) OnRepair(evict func(ctx context.Context, user dreamcore.UserID) error) {
	s.evict = evict
}

// Repair unmounts the failed file system of a user; its next use checks and
// mounts it. CodeSetup: it is still in use.
func (s *Store) Repair(ctx context.Context, user dreamcore.UserID) error {
	if s.disks == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, repairLimit)
	defer cancel()
	if s.evict != nil {
		if err := s.evict(ctx, user); err != nil {
			return fmt.Errorf("end the sandbox of the user, to repair the disk: %w", err)
		}
	}
	return s.disks.Repair(ctx, string(user))
}

// CheckWritable returns an error with disk.ErrFailed in its chain if the file
// system of the user has failed. Without a disk limit it tests the disk of the
// host.
func (s *Store) CheckWritable(p *Project) error {
	d, err := p.root.Open(".")
	if err != nil {
		return fmt.Errorf("try the disk of the project: %w", err)
	}
	return errors.Join(disk.ProbeAt(d), d.Close())
}
