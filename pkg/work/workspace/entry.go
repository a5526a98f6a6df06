package workspace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// State is the state of a workspace in the pool.
type State string

// The states of a workspace, in the order of its life.
const (
	StateStarting State = "starting"
	StateIdle     State = "idle"
	StateLeased   State = "leased"
	StateClosing  State = "closing"
)

// Info describes a sandbox that is listed.
type Info struct {
	Name     string           `json:"name"`              // "user-" and the user's id, or StandbyName
	Sandbox  string           `json:"sandbox,omitempty"` // empty while it starts
	User     dreamcore.UserID `json:"user,omitempty"`    // empty for a standby sandbox
	State    State            `json:"state"`
	Created  time.Time        `json:"created"`
	LastUsed time.Time        `json:"last_used"` // the last release, or the creation
	Jobs     int              `json:"jobs"`      // leases so far

	AgentWarm bool `json:"agent_warm,omitempty"` // an agent waits in it for the next job
}

// entry is one of the pool's entries. It is reserved for one user from before
// the workspace is created until the workspace is closed and no holder is left.
// The pool's lock guards its fields; the workspace, once set, does not change.
type entry struct {
	user      dreamcore.UserID
	workspace *Workspace    // nil until it is created
	closed    chan struct{} // closed when the workspace is, or could not be created
	tried     chan struct{} // closed after the first attempt to close the workspace

	state    State
	renew    bool                    // it must not be used again once its holder is done
	held     bool                    // a lease, or the goroutine that prepares one, uses the entry
	leased   bool                    // a Lease lasts, and is not being released
	cancel   context.CancelCauseFunc // ends the holder's context; nil without a holder
	reason   error                   // why the workspace closes
	failing  bool                    // at least one attempt to close it has failed
	closeErr error                   // of the last attempt to close it
	created  time.Time
	lastUsed time.Time
	hinted   time.Time // when WantsAgent last said yes
	jobs     int
}

// reason is an ordinary reason to close a workspace; any other error is a fault.
type reason string

func (r reason) Error() string { return string(r) }

const (
	errStale   = reason("the settings it was created from have changed")
	errAgent   = reason("no job would take its agent, or none waits in it")
	errOld     = reason("it is over the age limit")
	errIdle    = reason("it was idle for too long")
	errEvicted = reason("another user needs its slot")
	errCrowded = reason("there are more than the limit")
	errMemory  = reason("memory is short")
	errRenewed = reason("a project of its user was deleted")
)

const namePrefix = "user-"

// Name returns the name of the user's workspace.
func Name(user dreamcore.UserID) string { return namePrefix + string(user) }

// ownerOf returns the user encoded in the name of a workspace.
func ownerOf(name string) dreamcore.UserID {
	return dreamcore.UserID(strings.TrimPrefix(name, namePrefix))
}

// List describes every workspace, sorted by name.
func (p *Pool) List() []Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Info, 0, len(p.entries))
	for _, e := range p.entries {
		i := Info{Name: Name(e.user), User: e.user, State: e.state, Created: e.created, LastUsed: e.lastUsed, Jobs: e.jobs, AgentWarm: e.waiting() != nil}
		if e.workspace != nil {
			i.Sandbox = e.workspace.ID()
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Unless they say otherwise, the functions below must be called with mu held.

// named returns the entry of the workspace of that name, or nil.
func (p *Pool) named(name string) *entry {
	if !strings.HasPrefix(name, namePrefix) {
		return nil
	}
	return p.entries[ownerOf(name)]
}

func (e *entry) isClosed() bool { return isClosed(e.closed) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// reserve creates the user's entry, held by the caller, who creates the
// workspace.
func (p *Pool) reserve(user dreamcore.UserID) *entry {
	now := time.Now()
	e := &entry{
		user: user, state: StateStarting, held: true, created: now, lastUsed: now,
		closed: make(chan struct{}), tried: make(chan struct{}),
	}
	p.entries[user] = e
	p.present++
	p.measure = true // one more workspace needs memory
	p.wake()
	return e
}

// set puts the workspace into its entry and watches it.
func (p *Pool) set(e *entry, w *Workspace) {
	e.workspace = w
	p.wg.Go(func() { p.watch(e) })
}

// hold returns the context of the holder's next step, which ends when the
// workspace does. It must be called without mu.
func (p *Pool) hold(ctx context.Context, e *entry) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	e.cancel = cancel
	switch {
	case e.reason != nil:
		cancel(e.reason)
	case e.workspace != nil && isClosed(e.workspace.Lost()): // watch may have run before cancel was set
		cancel(e.lostError())
	}
	return ctx, cancel
}

func (e *entry) lostError() error {
	return fmt.Errorf("sandbox %s of user %s: %w", e.workspace.ID(), e.user, sandbox.ErrLost)
}

// watch waits for the end of the workspace's sandbox. It must be called without
// mu.
func (p *Pool) watch(e *entry) {
	select {
	case <-e.workspace.Lost():
	case <-e.closed:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case e.state == StateIdle:
		p.end(e, e.lostError())
	case e.state == StateLeased && e.cancel != nil:
		// No process is left in it. Its traces stay until the release, because
		// the holder may want to find out why it was lost.
		e.cancel(e.lostError())
	}
}

// unfit returns why a workspace must not be used again, or nil.
func (p *Pool) unfit(e *entry) error {
	now := time.Now()
	switch {
	case p.closing:
		return ErrClosed
	case isClosed(e.workspace.Lost()):
		return e.lostError()
	case e.workspace.stale():
		return errStale
	case e.renew:
		return errRenewed
	case now.Sub(e.created) >= p.limits.MaxAge:
		return errOld
	case e.state == StateIdle && now.Sub(e.lastUsed) >= p.limits.Idle:
		return errIdle
	}
	return nil
}

// crowded reports whether there are more workspaces than Max, not counting those
// that are closing. Only Apply can cause that.
func (p *Pool) crowded() bool {
	n := 0
	for _, e := range p.entries {
		if e.state != StateClosing {
			n++
		}
	}
	return n > p.limits.Max
}

// evict closes the least recently used idle workspace. It reports whether there
// was one.
func (p *Pool) evict(why error) bool {
	var oldest *entry
	for _, e := range p.entries {
		if e.state == StateIdle && (oldest == nil || e.lastUsed.Before(oldest.lastUsed)) {
			oldest = e
		}
	}
	if oldest != nil {
		p.end(oldest, why)
	}
	return oldest != nil
}

// giveBack ends the use of an entry by its holder: the workspace becomes idle,
// or it closes.
func (p *Pool) giveBack(e *entry) {
	e.held, e.cancel = false, nil
	if e.state != StateClosing {
		e.state = StateIdle
		why := p.unfit(e)
		if why == nil && p.crowded() {
			why = errCrowded
		}
		if why != nil {
			p.end(e, why)
		}
	}
	p.vacate(e)
	p.admit()
	p.wake()
}

// end closes a workspace in the background and ends its holder's context.
func (p *Pool) end(e *entry, why error) {
	if e.state == StateClosing {
		return
	}
	e.state, e.reason = StateClosing, why
	if e.cancel != nil {
		e.cancel(why)
	}
	if e.workspace != nil { // otherwise fill closes it
		p.wg.Go(func() { p.dismiss(e) })
	}
}

func (p *Pool) endAll(states ...State) {
	for _, e := range p.entries {
		if slices.Contains(states, e.state) {
			p.end(e, ErrClosed)
		}
	}
}

// setClosed records that the entry has no workspace any more.
func (p *Pool) setClosed(e *entry) {
	if !e.failing {
		close(e.tried)
	}
	close(e.closed)
	p.present--
	if p.closing && p.present == 0 {
		close(p.drained)
	}
}

// vacate removes an entry whose workspace is closed and that has no holder.
func (p *Pool) vacate(e *entry) {
	if e.isClosed() && !e.held {
		delete(p.entries, e.user)
	}
}
