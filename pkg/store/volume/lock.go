package volume

import (
	"context"
	"errors"
	"fmt"
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

// TryLock is Lock without waiting. CodeConflict: the project is locked.
func (s *Store) TryLock(user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error) {
	// A lock belongs to the open file, so every call opens the file again. The
	// file is never removed: two callers could then hold locks at once, one on
	// the removed file and one on its successor.
	f, err := s.locks.OpenFile(string(user)+"-"+string(project)+".lock", os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, tree.DiskError("open the lock of the project", err)
	}
	err = statefile.TryLock(f)
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
