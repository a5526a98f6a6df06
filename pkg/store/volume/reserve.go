package volume

import (
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// While a job runs in one project, its Guard holds the free space of the user. A
// change that a client makes in another project of the user must not fail for
// lack of space, nor stop the job. Files that the job itself writes during such a
// change do not count against its limit of files; the user's limit still holds.

// guards are the open guards of a Store, with their users.
type guards struct {
	mu  sync.Mutex
	all map[*Guard]dreamcore.UserID // guarded by mu
}

func (l *guards) add(g *Guard, user dreamcore.UserID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[*Guard]dreamcore.UserID{}
	}
	l.all[g] = user
}

func (l *guards) remove(g *Guard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, g)
}

func (l *guards) of(user dreamcore.UserID) (found []*Guard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for g, owner := range l.all {
		if owner == user {
			found = append(found, g)
		}
	}
	return found
}

// BeginChange tells the guards of a user, until end is called, that files are
// added and removed by a change and not by their jobs.
func (s *Store) BeginChange(user dreamcore.UserID) (end func()) {
	found := s.guards.of(user)
	for _, g := range found {
		g.beginChange()
	}
	return func() {
		for _, g := range found {
			g.endChange()
		}
	}
}

func (g *Guard) beginChange() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changes++; g.changes == 1 && !g.closed {
		g.before = g.used()
	}
}

func (g *Guard) endChange() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changes--; g.changes > 0 || g.closed || g.files == 0 {
		return
	}
	if after := g.used(); g.before > 0 && after > g.before {
		g.files += after - g.before
	}
}

// used returns the number of files in the user's file system, or 0 if it is not
// known.
func (g *Guard) used() uint64 {
	st, err := g.statfs()
	if err != nil {
		return 0
	}
	return st.Files - st.Ffree
}

// FreeReserves frees the reserves of the guards of a user until restore is
// called. restore is nil if there was nothing to free.
func (s *Store) FreeReserves(user dreamcore.UserID) (restore func()) {
	var all []func() error
	for _, g := range s.guards.of(user) {
		if r := g.freeReserve(); r != nil {
			all = append(all, r)
		}
	}
	if all == nil {
		return nil
	}
	return func() {
		for _, r := range all {
			if err := r(); err != nil {
				s.log.Warn("restore the reserve of a running job after a change", "user", string(user), "error", err)
			}
		}
	}
}

func (g *Guard) freeReserve() (restore func() error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, err := g.statfs()
	if err != nil || g.closed || g.reserve == nil || g.reserve.Truncate(0) != nil {
		return nil
	}
	left := int64(st.Bavail) * st.Bsize // free for the job, before and after
	return func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		const tries = 5 // the job may be writing
		for try := 1; ; try++ {
			if g.closed {
				return nil
			}
			st, err := g.statfs()
			size := int64(st.Bavail)*st.Bsize - left
			if err != nil || size <= 0 {
				return err
			}
			err = unix.Fallocate(int(g.reserve.Fd()), 0, 0, size)
			if err == nil || try == tries || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EINTR) {
				return err
			}
		}
	}
}
