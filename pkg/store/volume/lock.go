package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Lock locks a project against other goroutines and other processes. It waits
// until ctx ends, and then returns the error of ctx. The lock is released by
// unlock, which may be called more than once, and by the end of the process.
func (s *Store) Lock(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error) {
	err = statefile.Wait(ctx, func() error {
		unlock, err = s.TryLock(user, project)
		return err
	})
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil, fmt.Errorf("wait for the project: %w", ctx.Err())
	}
	return unlock, err
}

func lockName(user dreamcore.UserID, project dreamcore.ProjectID) string {
	return string(user) + "-" + string(project) + ".lock"
}

// lockFile opens a file of the directory of locks, and creates it unless the Store only
// looks. Then the file is nil if it is missing: no process has ever held that lock.
func (s *Store) lockFile(name string) (*os.File, error) {
	if !s.opts.Look {
		return s.locks.OpenFile(name, os.O_RDWR|os.O_CREATE, fileMode)
	}
	if s.locks == nil {
		return nil, nil
	}
	f, err := s.locks.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// isCurrent reports whether f is the file of that name.
func isCurrent(root *os.Root, name string, f *os.File) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := root.Lstat(name)
	return err == nil && os.SameFile(mine, now)
}

// TryLock is Lock without waiting. CodeConflict: the project is locked.
func (s *Store) TryLock(user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error) {
	// A lock belongs to the open file, so every call opens the file again. Only an
	// erasure removes the file, while it holds the lock: then this one is the lock of
	// a file that is gone, and the next attempt gets that of its successor.
	name := lockName(user, project)
	f, err := s.lockFile(name)
	if err != nil {
		return nil, tree.DiskError("open the lock of the project", err)
	}
	if f == nil {
		return func() {}, nil
	}
	err = statefile.TryLock(f)
	if err == nil && !isCurrent(s.locks, name, f) {
		err = statefile.ErrLocked
	}
	if errors.Is(err, statefile.ErrLocked) {
		err = &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the project is in use", Hint: "wait until the running generation has ended", Err: err}
	} else if err != nil {
		err = tree.DiskError("lock the project", err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return sync.OnceFunc(func() { f.Close() }), nil
}
