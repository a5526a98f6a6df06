// Package workspace gives each user a sandbox with everything bound to it: the
// user's projects and homes as mounts, a socket of the model gateway, and
// egress. A Pool keeps workspaces warm, ready for the user's next job, and
// never more of them than the machine should hold.
//
//	p, err := workspace.New(parts, settings)
//	defer p.Close(ctx)
//	lease, err := p.Lease(ctx, user) // the user's warm workspace, or a new one
//	if err != nil { … }
//	defer lease.Release(ctx)         // cleans the workspace and keeps it warm
//	work(lease.Context(), lease.Workspace())
//
// A workspace belongs to one user until it is closed; no other user ever gets
// it. A user has one workspace at a time: a new one is created only after the
// previous one is really closed, because both would write to the same files.
//
// The files: workspace.go and mount.go create one workspace, exec.go runs
// programs of the operator in it; pool.go, entry.go, lease.go, queue.go and
// janitor.go are the pool, and warm.go lets agents wait in it. standby.go and keeper.go
// keep sandboxes without a user: some for checks of the service, and, with late.go,
// some that get their user when one comes who has no workspace.
package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// Settings may change while the pool runs.
type Settings struct {
	Limits
	Template Template
	Env      []string // "KEY=value", for programs that Exec runs
}

// Limits bounds a pool. All except MinFree, WarmAgents and Standby must be positive, which
// the settings check.
type Limits struct {
	Max     int           // workspaces at once: idle, leased, starting and closing
	Idle    time.Duration // a workspace that was not leased for this long is closed
	MaxAge  time.Duration // an older workspace is closed, after its lease has ended
	MinFree int64         // bytes of free memory below which idle workspaces are closed; 0 disables the check

	WarmAgents int // agents that wait for jobs at once; may be 0
	Standby    int // sandboxes that are started ahead for users who have none; may be 0
}

// Causes of the end of a lease's context, besides sandbox.ErrLost.
var (
	ErrStopped error = reason("the sandbox was stopped")
	ErrClosed  error = reason("the pool of sandboxes is closing")
)

// Time limits of the steps, and the pauses between attempts to close.
const (
	probeLimit    = 2 * time.Second
	cleanLimit    = 10 * time.Second
	closeLimit    = 30 * time.Second
	firstPause    = time.Second
	longestPause  = time.Minute
	finalAttempts = 3 // to close a workspace once the pool closes
)

// Pool keeps workspaces warm. Its methods are safe for concurrent use.
type Pool struct {
	parts    Parts
	open     func(context.Context, dreamcore.UserID) (*Workspace, error)
	free     func() (int64, error) // bytes of memory that programs can still get
	log      *slog.Logger
	template atomic.Pointer[Template]
	env      atomic.Pointer[[]string]

	standby *Standby // of users; nil if sandboxes cannot get their user later
	parking atomic.Pointer[Parking]
	mayPark atomic.Bool // WarmAgents is not 0; the standby's lock may be held
	// unparked is when PauseParking was called last, Unix time in ns; 0 if never.
	unparked atomic.Int64

	quit    chan struct{} // closed when Close begins
	drained chan struct{} // closed when no workspace is left after that
	wakeup  chan struct{} // gets a value when the janitor should look; sends never block
	wg      sync.WaitGroup

	mu      sync.Mutex // guards the fields below and those of entries and waiters
	limits  Limits
	entries map[dreamcore.UserID]*entry // at most limits.Max, unless Apply has lowered it
	present int                         // entries whose workspace is not closed yet
	queue   []*waiter                   // in order of arrival
	measure bool                        // the janitor should check the memory now
	closing bool
	left    []error // of workspaces that could not be closed
}

// New creates an empty pool, which the caller must Close before it closes the
// parts. It fails with CodeSetup when the free memory is limited but cannot be
// read.
func New(parts Parts, s Settings) (*Pool, error) {
	p := &Pool{parts: parts, log: parts.Logger, free: availableMemory}
	p.open = p.openWorkspace
	p.template.Store(&s.Template)
	p.env.Store(&s.Env)
	if err := p.start(s.Limits); err != nil {
		return nil, err
	}
	if parts.Late {
		p.standby = p.newStandby()
	}
	parts.Volumes.OnRepair(p.stopForRepair)
	return p, nil
}

// start sets the remaining fields and starts the janitor.
func (p *Pool) start(l Limits) error {
	p.limits, p.entries = l, map[dreamcore.UserID]*entry{}
	p.mayPark.Store(l.WarmAgents > 0)
	p.quit, p.drained, p.wakeup = make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if _, err := p.free(); err != nil && l.MinFree > 0 {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the free memory of this machine cannot be read", Err: err,
			Hint: "mount /proc, or set min_free_mib to 0 to pool sandboxes regardless of the free memory",
		}
	}
	p.wg.Go(p.runJanitor)
	return nil
}

// Apply changes the settings. Idle workspaces above a lower Max are closed at
// once, leased ones when they are released. A workspace that was created from
// another template is closed instead of being leased again.
func (p *Pool) Apply(s Settings) {
	p.template.Store(&s.Template)
	p.env.Store(&s.Env)
	p.mayPark.Store(s.Limits.WarmAgents > 0)
	p.unparked.Store(0)
	if p.standby != nil {
		p.standby.Apply(s.Limits.standby())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits, p.measure = s.Limits, true
	for p.crowded() && p.evict(errCrowded) {
	}
	p.limitAgents()
	p.admit()
	p.wake()
}

// Prewarm makes the user's workspace ready and leaves it idle. It reports
// whether there was one already: idle and healthy, in use, or being created. If
// the pool is full, it closes the least recently used idle workspace of another
// user. It never waits for a lease to end: it fails with CodeBusy instead.
func (p *Pool) Prewarm(ctx context.Context, user dreamcore.UserID) (already bool, err error) {
	e, reused, err := p.obtain(ctx, &waiter{user: user, prewarm: true})
	if err != nil || e == nil {
		return err == nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.lastUsed = time.Now()
	p.giveBack(e)
	p.limitAgents() // one may have waited in the sandbox before the user came
	return reused, nil
}

// Stop closes the workspace of that name at the operator's request, even while a
// job runs in it; the job ends with ErrStopped. Stop returns when the workspace is
// closed. It fails with CodeNotFound for an unknown name.
func (p *Pool) Stop(ctx context.Context, name string) error {
	err := p.stop(ctx, name)
	p.parts.audit(audit.EventOperator, "", ownerOf(name), "stop "+name, err)
	return err
}

// Renew makes sure that the user's next job gets a new workspace: it closes an idle one
// and returns when that is closed; one in use is closed when its lease ends, and its job
// goes on. A user without a workspace is no error.
func (p *Pool) Renew(ctx context.Context, user dreamcore.UserID) error {
	p.mu.Lock()
	e := p.entries[user]
	if e == nil || e.state != StateIdle {
		if e != nil {
			e.renew = true
		}
		p.mu.Unlock()
		return nil
	}
	p.end(e, errRenewed)
	p.mu.Unlock()
	return p.awaitClose(ctx, e)
}

// stopForRepair closes the workspace of a user whose disk is to be repaired.
func (p *Pool) stopForRepair(ctx context.Context, user dreamcore.UserID) error {
	if err := p.stop(ctx, Name(user)); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return err
	}
	return nil
}

func (p *Pool) stop(ctx context.Context, name string) error {
	p.mu.Lock()
	e := p.named(name)
	if e == nil {
		p.mu.Unlock()
		return notFound(name)
	}
	p.end(e, ErrStopped)
	p.mu.Unlock()
	return p.awaitClose(ctx, e)
}

// awaitClose waits for the first attempt to close a workspace, and returns its error.
func (p *Pool) awaitClose(ctx context.Context, e *entry) error {
	select {
	case <-e.tried:
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", Name(e.user), context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.closeErr != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeInternal, Message: fmt.Sprintf("sandbox %s could not be closed", Name(e.user)), Err: e.closeErr,
			Hint: "the service keeps trying; see the cause with: journalctl -u dreamcore",
		}
	}
	return nil
}

// Close refuses new leases and closes every idle workspace. It waits for leased
// ones; when ctx ends, it ends the contexts of their leases with ErrClosed and
// closes them too. It returns when every workspace is closed or could not be
// closed in a few attempts. It may be called more than once.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closing {
		p.closing = true
		close(p.quit)
		for _, w := range p.queue {
			w.answer(nil, closedError())
		}
		p.queue = nil
		p.endAll(StateIdle, StateStarting)
		if p.present == 0 {
			close(p.drained)
		}
	}
	p.mu.Unlock()
	if p.standby != nil {
		p.standby.Disable() // nothing is started beside the last jobs
	}
	select {
	case <-p.drained:
	case <-ctx.Done():
		p.mu.Lock()
		p.endAll(StateLeased)
		p.mu.Unlock()
		<-p.drained
	}
	p.wg.Wait()
	var err error
	if p.standby != nil {
		err = p.standby.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := errors.Join(append(p.left, err)...); err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeInternal, Message: "sandboxes could not be closed", Err: err,
			Hint: "the next start of dreamcore removes the residue",
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

func notFound(name string) error {
	if name == StandbyName { // the name of standby sandboxes in lists
		return &dreamcore.Error{
			Code: dreamcore.CodeNotFound, Message: "standby sandboxes have no user",
			Hint: "name a user's sandbox (dreamcore ps lists them); to have no standby sandboxes, set spare_sandboxes to 0",
		}
	}
	if name == UnownedName {
		return &dreamcore.Error{
			Code: dreamcore.CodeNotFound, Message: "standby sandboxes have no user yet",
			Hint: "name a user's sandbox (dreamcore ps lists them); to have no standby sandboxes, set standby_sandboxes to 0",
		}
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: fmt.Sprintf("there is no sandbox %q", name), Hint: "list them with: dreamcore ps",
	}
}
