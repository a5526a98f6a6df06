// Package workspace keeps sandboxes warm: one for each user, ready before the next
// job asks for it, and never more than the machine is to hold.
//
//	p, err := pool.New(pool.Config[*Box]{Make: make, Limits: pool.Limits{Max: 8, Idle: 20 * time.Minute, MaxAge: 5 * time.Hour}})
//	defer p.Close(ctx)
//	lease, err := p.Lease(ctx, user) // the user's warm one, or a new one
//	if err != nil { … }
//	defer lease.Release(ctx)         // cleans it and keeps it warm
//	work(lease.Context(), lease.Member())
//
// A member belongs to the user it was made for until it is closed; no other
// user ever gets it. A user has one member at a time: the next one is made only
// when the one before is really closed, for both would write to the same files.
package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Member is a sandbox that can be kept. Its methods are safe for concurrent
// use. ID, Lost and Stale return at once and do not call the pool.
type Member interface {
	// ID is the sandbox's id.
	ID() string
	// Lost is closed when the sandbox has ended, by Close or by itself.
	Lost() <-chan struct{}
	// Probe is a quick check that programs can be started in it.
	Probe(ctx context.Context) error
	// Clean ends every process in it and empties its /tmp. After an error the
	// member is closed.
	Clean(ctx context.Context) error
	// Stale tells that it was made from settings that no longer hold.
	Stale() bool
	// Close ends it and removes every trace. After an error it is called
	// again, until it returns nil; never after that.
	Close(ctx context.Context) error
}

// Limits bounds what is kept. All but MinFree must be positive.
type Limits struct {
	Max     int           // members at once: idle, leased, starting and closing
	Idle    time.Duration // a member that nobody leased for so long is closed
	MaxAge  time.Duration // an older member is closed, when its lease has ended
	MinFree int64         // bytes of free memory under which idle members are closed; 0 looks at none
}

// Config says what a pool is made of.
type Config[M Member] struct {
	Limits
	// Make makes the member of a user. ctx bounds the making, not the member.
	// On an error nothing is left behind.
	Make func(ctx context.Context, user dreamcore.UserID) (M, error)
	// Free tells the bytes of memory that programs can still get. The default
	// is MemAvailable of /proc/meminfo.
	Free   func() (int64, error)
	Logger *slog.Logger
}

// Causes of the end of a lease's context, beside sandbox.ErrLost.
var (
	ErrStopped error = reason("the sandbox was stopped")
	ErrClosed  error = reason("the pool of sandboxes is closing")
)

// Time limits of the steps, and the pauses between tries to close.
const (
	probeLimit   = 2 * time.Second
	cleanLimit   = 10 * time.Second
	closeLimit   = 30 * time.Second
	firstPause   = time.Second
	longestPause = time.Minute
	lastTries    = 3 // to close a member once the pool closes
)

// Pool keeps the members. Its methods are safe for concurrent use.
type Pool[M Member] struct {
	create func(context.Context, dreamcore.UserID) (M, error)
	free   func() (int64, error)
	log    *slog.Logger

	quit    chan struct{} // closed when Close begins
	drained chan struct{} // closed when, after that, no member is left
	wake    chan struct{} // gets a value when the janitor should look; never blocks
	wg      sync.WaitGroup

	mu      sync.Mutex // guards what follows and the fields of places and waiters
	limits  Limits
	places  map[dreamcore.UserID]*place[M] // never more than limits.Max, but after Apply lowered it
	open    int                            // places whose member is not closed yet
	queue   []*waiter[M]                   // in order of arrival
	measure bool                           // the janitor shall look at the memory now
	closing bool
	left    []error // of members that could not be closed
}

// New makes an empty pool, which the caller must Close. It fails with
// CodeInvalid on limits that make no sense, and with CodeSetup when the free
// memory cannot be told but has a limit.
func New[M Member](cfg Config[M]) (*Pool[M], error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p := &Pool[M]{
		create: cfg.Make, free: cfg.Free, log: cfg.Logger, limits: cfg.Limits,
		quit: make(chan struct{}), drained: make(chan struct{}), wake: make(chan struct{}, 1),
		places: map[dreamcore.UserID]*place[M]{},
	}
	if p.free == nil {
		p.free = availableMemory
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if _, err := p.free(); err != nil && cfg.MinFree > 0 {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the free memory of this machine cannot be read", Err: err,
			Hint: "mount /proc, or set the least free memory to 0 to keep sandboxes whatever the memory is",
		}
	}
	p.wg.Go(p.tidy)
	return p, nil
}

func (l Limits) validate() error {
	var fault string
	switch {
	case l.Max < 1:
		fault = fmt.Sprintf("%d sandboxes at most", l.Max)
	case l.Idle <= 0:
		fault = fmt.Sprintf("an idle limit of %v", l.Idle)
	case l.MaxAge <= 0:
		fault = fmt.Sprintf("an age limit of %v", l.MaxAge)
	case l.MinFree < 0:
		fault = fmt.Sprintf("a least free memory of %d bytes", l.MinFree)
	default:
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "the pool of sandboxes cannot have " + fault,
		Hint: "correct the settings of warm sandboxes: numbers and times above zero",
	}
}

// Apply changes the limits. Idle members over a lower Max are closed at once,
// leased ones when they are released.
func (p *Pool[M]) Apply(l Limits) error {
	if err := l.validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits, p.measure = l, true
	for p.crowded() && p.evict(errCrowded) {
	}
	p.admit()
	p.poke()
	return nil
}

// Prewarm makes the user's member ready and leaves it idle. It tells whether
// there was one already: idle and healthy, or in use, or being made. It closes
// the least recently used idle member of another user where there is no place
// otherwise, but never waits for a lease to end: it fails with CodeBusy.
func (p *Pool[M]) Prewarm(ctx context.Context, user dreamcore.UserID) (already bool, err error) {
	s, reused, err := p.obtain(ctx, &waiter[M]{user: user, prewarm: true})
	if err != nil || s == nil {
		return err == nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.used = time.Now()
	p.rest(s)
	return reused, nil
}

// Stop ends the member of that name, whatever it does: a job in it ends with
// ErrStopped. It returns when the member is closed, and fails with CodeNotFound
// when there is none of that name.
func (p *Pool[M]) Stop(ctx context.Context, name string) error {
	p.mu.Lock()
	s := p.named(name)
	if s == nil {
		p.mu.Unlock()
		return &dreamcore.Error{
			Code: dreamcore.CodeNotFound, Message: fmt.Sprintf("there is no sandbox %q", name),
			Hint: "dreamcore ps lists them",
		}
	}
	p.end(s, ErrStopped)
	p.mu.Unlock()
	select {
	case <-s.tried:
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", name, context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.fault != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeInternal, Message: fmt.Sprintf("sandbox %s could not be closed", name), Err: s.fault,
			Hint: "the service goes on trying; journalctl -u dreamcore tells more",
		}
	}
	return nil
}

// Close takes no more leases and closes every idle member. It waits for those
// that are leased; when ctx ends it ends their contexts with ErrClosed and
// closes them too. It returns when every member is closed, or could not be
// after a few tries. It may be called more than once.
func (p *Pool[M]) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closing {
		p.closing = true
		close(p.quit)
		for _, w := range p.queue {
			w.answer(nil, closedError())
		}
		p.queue = nil
		p.endAll(StateIdle, StateStarting)
		if p.open == 0 {
			close(p.drained)
		}
	}
	p.mu.Unlock()
	select {
	case <-p.drained:
	case <-ctx.Done():
		p.mu.Lock()
		p.endAll(StateLeased)
		p.mu.Unlock()
		<-p.drained
	}
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := errors.Join(p.left...); err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeInternal, Message: "sandboxes could not be closed", Err: err,
			Hint: "the next start of dreamcore removes what is left of them",
		}
	}
	return nil
}

func closedError() error {
	return &dreamcore.Error{
		Code: dreamcore.CodeBusy, Message: "the service is stopping", Err: ErrClosed,
		Hint: "try again in a moment",
	}
}

func (cfg Config[M]) validate() error {
	if cfg.Make == nil {
		return errors.New("a pool needs a way to make its members")
	}
	return cfg.Limits.validate()
}
