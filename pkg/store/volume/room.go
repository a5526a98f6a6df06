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
)

// hostBytes are set aside for what the host itself writes of one job or
// change: its version and its log.
const hostBytes = 64 << 20

// repairLimit bounds the wait until nothing uses a file system that has failed.
const repairLimit = 30 * time.Second

// Room is space of the host's disk that is set aside for one job or change:
// all that the user's file system may still take, and hostBytes for the version
// and the log. It is allocated, not only counted, so the sum of all rooms never
// exceeds the disk, and a program that fills the disk takes none of it.
type Room struct {
	release func()
	mu      sync.Mutex
	host    *os.File // guarded by mu; nil once it is given back
}

// Reserve sets the room for one job or change of a user aside. Beyond it,
// Options.MinFreeBytes stay free. A file system of the user that has failed (the
// host's disk was full, or broken) is repaired first, for which the user's
// sandbox is ended. CodeSetup: there is no room, or the file system cannot be
// repaired. The caller must Close the Room, after what it opened of the user.
func (s *Store) Reserve(ctx context.Context, user dreamcore.UserID) (_ *Room, err error) {
	r := &Room{release: func() {}}
	if err := s.CheckFree(); err != nil {
		return nil, err
	}
	if s.disks != nil {
		if err := s.makeUsers(); err != nil {
			return nil, s.userError("reserve the space of the user", err)
		}
		r.release, err = s.disks.Reserve(ctx, string(user), max(hostBytes, s.opts.MinFreeBytes)+hostBytes)
		if errors.Is(err, disk.ErrFailed) {
			s.log.Error("the disk of a user has failed and is repaired", "user", string(user), "error", err)
			if err := s.Repair(ctx, user); err != nil {
				return nil, err
			}
			r.release, err = s.disks.Reserve(ctx, string(user), max(hostBytes, s.opts.MinFreeBytes)+hostBytes)
		}
		if err != nil {
			return nil, err
		}
	}
	if r.host, err = s.setAside(hostBytes); err != nil {
		r.release()
		return nil, diskError("reserve the space of a version", err)
	}
	return r, nil
}

// makeUsers makes the directory in which the file systems of users are mounted.
func (s *Store) makeUsers() error {
	data, err := s.volume(Data)
	if err != nil {
		return err
	}
	users, err := makeDirs(data, usersDir)
	if err == nil {
		err = users.Close()
	}
	return errors.Join(err, data.Close())
}

// setAside allocates bytes of the host's disk in a file without a name, which
// is gone with the process. nil: the disk's file system has no such thing.
func (s *Store) setAside(bytes int64) (*os.File, error) {
	fd, err := unix.Open(s.volumes.Name(), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	f := os.NewFile(uintptr(fd), "room")
	for {
		switch err := unix.Fallocate(fd, 0, 0, bytes); {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil, f.Close()
		default:
			return nil, errors.Join(os.NewSyscallError("fallocate", err), f.Close())
		}
	}
}

// FreeForHost gives back what was set aside for the version and the log, for
// them to be written.
func (r *Room) FreeForHost() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host != nil {
		_ = r.host.Close()
		r.host = nil
	}
}

// Close gives everything back. It may be called more than once.
func (r *Room) Close() {
	r.FreeForHost()
	r.release()
}

// OnRepair sets the function that ends the sandbox of a user, whose file system
// cannot be repaired while the sandbox has it mounted. It is called before the
// first Reserve.
func (s *Store) OnRepair(evict func(ctx context.Context, user dreamcore.UserID) error) {
	s.evict = evict
}

// Repair unmounts the failed file system of a user; the next use checks and
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

// CheckWritable reports a file system of the user that has failed: ErrFailed of
// package disk is in the chain. Without a bound of the user it tries the disk
// of the host.
func (s *Store) CheckWritable(p *Project) error {
	d, err := p.root.Open(".")
	if err != nil {
		return fmt.Errorf("try the disk of the project: %w", err)
	}
	return errors.Join(disk.ProbeAt(d), d.Close())
}
