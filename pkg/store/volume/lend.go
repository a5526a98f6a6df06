package volume

import (
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// While a job runs in one project, its Guard holds the free space of the user.
// A change of another project, which a person saves meanwhile, must neither
// fail for that nor stop the job. What the job itself writes in these moments
// is not counted against its bound; that of the user holds.

// guards are those that hold something, with their users.
type guards struct {
	mu  sync.Mutex
	all map[*Guard]string // guarded by mu
}

func (l *guards) enlist(g *Guard, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = map[*Guard]string{}
	}
	l.all[g] = user
}

func (l *guards) dismiss(g *Guard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, g)
}

func (l *guards) of(user string) (found []*Guard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for g, owner := range l.all {
		if owner == user {
			found = append(found, g)
		}
	}
	return found
}

// beside tells the guards of a user that files come and go which are not the
// job's, until end is called.
func (s *Store) beside(user string) (end func()) {
	found := s.guards.of(user)
	for _, g := range found {
		g.besideBegins()
	}
	return func() {
		for _, g := range found {
			g.besideEnds()
		}
	}
}

func (g *Guard) besideBegins() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.beside++; g.beside == 1 && !g.closed {
		g.before = g.used()
	}
}

func (g *Guard) besideEnds() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.beside--; g.beside > 0 || g.closed || g.files == 0 {
		return
	}
	if after := g.used(); g.before > 0 && after > g.before {
		g.files += after - g.before
	}
}

// used is how many files the user has; 0: nobody knows.
func (g *Guard) used() uint64 {
	st, err := g.statfs()
	if err != nil {
		return 0
	}
	return st.Files - st.Ffree
}

// lend frees what the guards of a user have set aside, until giveBack is
// called; nil: there is nothing to be had.
func (s *Store) lend(user string) (giveBack func()) {
	var back []func() error
	for _, g := range s.guards.of(user) {
		if b := g.lend(); b != nil {
			back = append(back, b)
		}
	}
	if back == nil {
		return nil
	}
	return func() {
		for _, b := range back {
			if err := b(); err != nil {
				s.log.Warn("set aside again what a change had need of", "user", user, "error", err)
			}
		}
	}
}

func (g *Guard) lend() (giveBack func() error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	st, err := g.statfs()
	if err != nil || g.closed || g.reserve == nil || g.reserve.Truncate(0) != nil {
		return nil
	}
	left := int64(st.Bavail) * st.Bsize // the job's, before and after
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
