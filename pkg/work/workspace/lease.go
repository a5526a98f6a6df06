package workspace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Lease is the right to a user's member until Release. Who got it must release
// it, also after its context has ended.
type Lease[M Member] struct {
	pool   *Pool[M]
	place  *place[M]
	member M
	reused bool
	ctx    context.Context
	cut    context.CancelCauseFunc
	once   sync.Once
}

// Lease returns the user's member: the warm one when it is healthy, else a new
// one. While another lease of the user lasts, or there is no place and no idle
// member of another user to close for it, it waits in order of arrival, until
// ctx ends.
func (p *Pool[M]) Lease(ctx context.Context, user dreamcore.UserID) (*Lease[M], error) {
	s, reused, err := p.obtain(ctx, &waiter[M]{user: user})
	if err != nil {
		return nil, err
	}
	l := &Lease[M]{pool: p, place: s, member: s.member, reused: reused}
	l.ctx, l.cut = p.arm(ctx, s)
	p.mu.Lock()
	s.jobs++
	p.mu.Unlock()
	return l, nil
}

// Member is the sandbox.
func (l *Lease[M]) Member() M { return l.member }

// Reused tells whether the member was there before the lease.
func (l *Lease[M]) Reused() bool { return l.reused }

// Context is the context that the lease was asked for with, and ends also when
// the member is lost, its cause wrapping sandbox.ErrLost, when it is stopped
// (ErrStopped), when the pool closes (ErrClosed), and on Release.
func (l *Lease[M]) Context() context.Context { return l.ctx }

// Release gives the member back. It is cleaned and stays warm, or is closed in
// the background where that cannot be. Release takes as long as the cleaning,
// which ctx does not cut short. It may be called more than once.
func (l *Lease[M]) Release(ctx context.Context) {
	l.once.Do(func() {
		l.cut(context.Canceled)
		l.pool.release(ctx, l.place)
	})
}

var errUnclean = errors.New("cleaning did not come to an end")

func (p *Pool[M]) release(ctx context.Context, s *place[M]) {
	err := errUnclean // stays when Clean panics: the member must not be used again
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		s.used = time.Now()
		if err != nil {
			p.end(s, err)
		}
		p.rest(s)
	}()
	p.mu.Lock()
	over := s.state == StateClosing || p.unfit(s) != nil
	p.mu.Unlock()
	if over {
		err = nil // it is closed, dirty or not
		return
	}
	ctx, cut := p.arm(context.WithoutCancel(ctx), s)
	defer cut(nil)
	ctx, cancel := context.WithTimeout(ctx, cleanLimit)
	defer cancel()
	if err = s.member.Clean(ctx); err != nil {
		err = fmt.Errorf("clean: %w", err)
	}
}

// obtain waits for the turn of w and gets a healthy member. The caller holds
// the place then. It returns no place when w only wanted to know that the
// member is there.
func (p *Pool[M]) obtain(ctx context.Context, w *waiter[M]) (s *place[M], reused bool, err error) {
	if ctx.Err() != nil {
		return nil, false, fmt.Errorf("wait for a sandbox: %w", context.Cause(ctx))
	}
	p.mu.Lock()
	p.enter(w, len(p.queue))
	p.admit()
	p.mu.Unlock()
	for {
		if s, err = p.await(ctx, w); err != nil || s == nil {
			return nil, false, err
		}
		if !s.made {
			return s, false, p.fill(ctx, s)
		}
		healthy, err := p.check(ctx, s, w)
		if err != nil || healthy {
			return s, true, err
		}
	}
}

// check probes the warm member of a place that the caller holds. When it is
// not healthy, the caller holds the place no more, and w waits again.
func (p *Pool[M]) check(ctx context.Context, s *place[M], w *waiter[M]) (healthy bool, err error) {
	done := false
	defer func() {
		if !done { // a panic
			p.mu.Lock()
			defer p.mu.Unlock()
			p.end(s, errors.New("the probe did not come to an end"))
			p.rest(s)
		}
	}()
	armed, cut := p.arm(ctx, s)
	defer cut(nil)
	probing, cancel := context.WithTimeout(armed, probeLimit)
	defer cancel()
	fault := s.member.Probe(probing)

	p.mu.Lock()
	defer p.mu.Unlock()
	done = true
	if ctx.Err() != nil { // says nothing about the member: the next one probes it again
		p.rest(s)
		return false, fmt.Errorf("probe sandbox: %w", context.Cause(ctx))
	}
	why := p.unfit(s)
	if why == nil && fault != nil {
		why = fmt.Errorf("probe: %w", fault)
	}
	if why != nil {
		p.end(s, why)
	}
	if s.state == StateClosing {
		p.enter(w, 0) // one that has to be replaced does not cost its user the turn
		p.rest(s)
		return false, nil
	}
	return true, nil
}

// fill makes the member of a new place that the caller holds. On an error the
// place is gone.
func (p *Pool[M]) fill(ctx context.Context, s *place[M]) error {
	made := false
	defer func() {
		if !made { // an error or a panic
			p.mu.Lock()
			defer p.mu.Unlock()
			p.end(s, errors.New("it could not be made"))
			p.shut(s)
			p.rest(s)
		}
	}()
	making, cut := p.arm(ctx, s)
	defer cut(nil)
	m, err := p.create(making, s.user)
	if err != nil {
		if c := context.Cause(making); c != nil {
			err = c // what the engine says of it is no news
		}
		return fmt.Errorf("make sandbox: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	made = true
	p.settle(s, m)
	if s.state != StateClosing {
		s.state = StateLeased
		return nil
	}
	// It was stopped meanwhile; the member did not notice.
	p.wg.Go(func() { p.dismiss(s) })
	p.rest(s)
	return fmt.Errorf("make sandbox: %w", s.why)
}
