package workspace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Lease is the exclusive right to a user's workspace until Release. The caller
// of Pool.Lease must release it, even after its context has ended.
type Lease struct {
	pool   *Pool
	entry  *entry
	reused bool
	ctx    context.Context
	cancel context.CancelCauseFunc
	once   sync.Once
}

// Lease returns the user's workspace: the warm one if it is healthy, else a new
// one. It waits, in order of arrival and until ctx ends, while another lease of
// the user lasts, and while the pool is full and has no idle workspace of
// another user to close.
func (p *Pool) Lease(ctx context.Context, user dreamcore.UserID) (*Lease, error) {
	e, reused, err := p.obtain(ctx, &waiter{user: user})
	if err != nil {
		return nil, err
	}
	l := &Lease{pool: p, entry: e, reused: reused}
	l.ctx, l.cancel = p.hold(ctx, e)
	p.mu.Lock()
	e.jobs++
	e.leased = true
	p.mu.Unlock()
	return l, nil
}

// Workspace returns the leased workspace.
func (l *Lease) Workspace() *Workspace { return l.entry.workspace }

// Reused reports whether the workspace existed before the lease.
func (l *Lease) Reused() bool { return l.reused }

// Context returns the context that was passed to Pool.Lease. It also ends when
// the sandbox is lost (its cause wraps sandbox.ErrLost), when the workspace is
// stopped (ErrStopped), when the pool closes (ErrClosed), and on Release.
func (l *Lease) Context() context.Context { return l.ctx }

// Release gives the workspace back. It is cleaned and stays warm; if it cannot
// be used again, it is closed in the background. Release takes as long as the
// cleaning, which does not stop when ctx ends. It may be called more than once.
func (l *Lease) Release(ctx context.Context) {
	l.once.Do(func() {
		l.cancel(context.Canceled)
		l.pool.release(ctx, l.entry)
	})
}

var errUnclean = errors.New("cleaning did not finish")

func (p *Pool) release(ctx context.Context, e *entry) {
	err := errUnclean // remains if clean panics: the workspace must not be used again
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		e.lastUsed = time.Now()
		if err != nil {
			p.end(e, err)
		}
		p.giveBack(e)
	}()
	p.mu.Lock()
	e.leased = false
	over := e.state == StateClosing || p.unfit(e) != nil
	p.mu.Unlock()
	if over {
		err = nil // it is closed in any case
		return
	}
	ctx, cancelHold := p.hold(context.WithoutCancel(ctx), e)
	defer cancelHold(nil)
	ctx, cancel := context.WithTimeout(ctx, cleanLimit)
	defer cancel()
	if err = e.workspace.clean(ctx); err != nil {
		err = fmt.Errorf("clean: %w", err)
	}
}

// obtain waits for the turn of w and returns the user's entry with a healthy
// workspace, held by the caller. The entry is nil if w is a prewarm and the
// workspace is in use.
func (p *Pool) obtain(ctx context.Context, w *waiter) (e *entry, reused bool, err error) {
	if ctx.Err() != nil {
		return nil, false, fmt.Errorf("wait for a sandbox: %w", context.Cause(ctx))
	}
	p.mu.Lock()
	p.enqueue(w, len(p.queue))
	p.admit()
	p.mu.Unlock()
	for {
		if e, err = p.await(ctx, w); err != nil || e == nil {
			return nil, false, err
		}
		if e.workspace == nil {
			return e, false, p.fill(ctx, e)
		}
		healthy, err := p.check(ctx, e, w)
		if err != nil || healthy {
			return e, true, err
		}
	}
}

// check probes the warm workspace of an entry that the caller holds. If the
// workspace is not healthy, the caller no longer holds the entry and w waits
// again.
func (p *Pool) check(ctx context.Context, e *entry, w *waiter) (healthy bool, err error) {
	done := false
	defer func() {
		if !done { // a panic
			p.mu.Lock()
			defer p.mu.Unlock()
			p.end(e, errors.New("the probe did not finish"))
			p.giveBack(e)
		}
	}()
	held, cancelHold := p.hold(ctx, e)
	defer cancelHold(nil)
	probing, cancel := context.WithTimeout(held, probeLimit)
	defer cancel()
	probeErr := e.workspace.probe(probing)

	p.mu.Lock()
	defer p.mu.Unlock()
	done = true
	if ctx.Err() != nil { // the probe proves nothing: the next caller repeats it
		p.giveBack(e)
		return false, fmt.Errorf("probe sandbox: %w", context.Cause(ctx))
	}
	why := p.unfit(e)
	if why == nil && probeErr != nil {
		why = fmt.Errorf("probe: %w", probeErr)
	}
	if why != nil {
		p.end(e, why)
	}
	if e.state == StateClosing {
		p.enqueue(w, 0) // the user keeps the turn while the workspace is replaced
		p.giveBack(e)
		return false, nil
	}
	return true, nil
}

// fill creates the workspace of a new entry that the caller holds. After an
// error the entry is gone.
func (p *Pool) fill(ctx context.Context, e *entry) error {
	filled := false
	defer func() {
		if !filled { // an error or a panic
			p.mu.Lock()
			defer p.mu.Unlock()
			p.end(e, errors.New("it could not be created"))
			p.setClosed(e)
			p.giveBack(e)
		}
	}()
	held, cancel := p.hold(ctx, e)
	defer cancel(nil)
	w, err := p.open(held, e.user)
	if err != nil && w == nil {
		if cause := context.Cause(held); cause != nil {
			err = cause // the engine's error only follows from it
		}
		return fmt.Errorf("make sandbox: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	filled = true
	p.set(e, w)
	switch {
	case err != nil && e.state != StateClosing: // it could not be closed yet
		e.state, e.reason = StateClosing, err
	case e.state != StateClosing:
		e.state = StateLeased
		return nil
	}
	// Otherwise it was stopped while it was being created, and was created all the same.
	p.wg.Go(func() { p.dismiss(e) })
	p.giveBack(e)
	return fmt.Errorf("make sandbox: %w", e.reason)
}
