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
)

// maxLockPause bounds the pause between two tries for a lock.
const maxLockPause = 25 * time.Millisecond

// Lock takes a project for one user of it at a time: goroutines of this
// process and other processes alike. It waits until ctx ends, and then returns
// ctx's error. The lock is free again after unlock, which may be called more
// than once, and when the process ends.
func (s *Store) Lock(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, maxLockPause) {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("wait for the project: %w", err)
		}
		unlock, err = s.TryLock(user, project)
		if dreamcore.CodeOf(err) != dreamcore.CodeConflict {
			return unlock, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// TryLock is Lock without waiting. CodeConflict: another has the project.
func (s *Store) TryLock(user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error) {
	// A lock belongs to the open file, so every call opens one of its own.
	// The file stays: removing it would let two have "the" lock, one on the
	// removed file and one on its successor.
	f, err := s.locks.OpenFile(string(user)+"-"+string(project)+".lock", os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, diskError("open the lock of the project", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the project is in use", Hint: "wait until the running generation has ended", Err: err}
	} else if err != nil {
		err = diskError("lock the project", err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return sync.OnceFunc(func() { f.Close() }), nil
}
