package workspace

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Agent is an agent that was started ahead of the job that it waits for.
type Agent interface {
	// Alive reports whether the sandbox answers in time and the agent has not ended.
	Alive(ctx context.Context) bool
	// Done returns a channel that is closed when the agent has ended.
	Done() <-chan struct{}
	// End ends the agent and every other process of its user.
	End(ctx context.Context) error
}

// warmReserve is the memory that must be free beyond MinFree before an agent is
// started ahead, which takes about half of that.
const warmReserve = 256 << 20

// warm is the agent that waits in a workspace. While it waits, no other process runs
// there.
type warm struct {
	Agent
	since time.Time
	first bool // it was there before the user
}

// waiting returns the agent that waits in the workspace, or nil. It may be called at
// any time; only the holder of the pool's entry changes the agent.
func (w *Workspace) waiting() *warm {
	a := w.warm.Load()
	if a == nil || isClosed(a.Done()) {
		return nil
	}
	return a
}

// Agent returns the agent that waits in the workspace, or nil. The caller must hold
// the workspace.
func (w *Workspace) Agent() Agent {
	if a := w.waiting(); a != nil {
		return a.Agent
	}
	return nil
}

// TakeAgent returns the agent that waits in the workspace, or nil. The caller must run
// or end it before anything else is started, and must hold the workspace.
func (w *Workspace) TakeAgent() Agent {
	if a := w.warm.Swap(nil); a != nil {
		return a.Agent
	}
	return nil
}

// endLimit bounds the end of an agent.
const endLimit = 10 * time.Second

// EndAgent ends the agent that waits in the workspace, if any. After an error the
// workspace must be closed. The caller must hold the workspace.
func (w *Workspace) EndAgent(ctx context.Context) error {
	a := w.TakeAgent()
	if a == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if err := a.End(ctx); err != nil {
		return fmt.Errorf("end the agent that was started ahead: %w", err)
	}
	return nil
}

// Warm lets start begin an agent for the user's next job in the user's workspace, if
// that is idle; otherwise it does nothing. start has the workspace for itself, as a
// lease does. It gets the agent that waits already, if any, and may return it, or
// nil. The agent ends as soon as anything else is started in the workspace, and when
// there are more than WarmAgents or memory is short, before any workspace is closed.
// The workspace counts as unused meanwhile.
func (p *Pool) Warm(ctx context.Context, user dreamcore.UserID, start func(ctx context.Context, w *Workspace, waiting Agent) (Agent, error)) error {
	if !p.mayWarm(user) {
		return nil
	}
	e, _, err := p.obtain(ctx, &waiter{user: user, idle: true})
	if err != nil || e == nil {
		return err // in use
	}
	fault := errUnclean // remains if start panics
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if fault != nil {
			p.end(e, fault)
		}
		p.giveBack(e)
		p.limitAgents()
	}()
	held, cancel := p.hold(ctx, e)
	defer cancel(nil)
	w := e.workspace
	agent, err := start(held, w, w.Agent())
	if err == nil {
		fault = w.setAgent(held, agent)
		return fault
	}
	cleaning, stop := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer stop()
	w.TakeAgent() // cleaning ends it
	fault = w.clean(cleaning)
	return errors.Join(err, fault)
}

// setAgent makes an agent wait in place of the one before, which is ended unless it
// is the same. The agent may be nil.
func (w *Workspace) setAgent(ctx context.Context, agent Agent) error {
	before := w.warm.Load()
	switch {
	case agent == nil:
		return w.EndAgent(context.WithoutCancel(ctx))
	case before == nil:
	case before.Agent == agent:
		w.warm.Store(&warm{Agent: agent, since: before.since})
		return nil
	default:
		return errors.New("an agent was started beside another one")
	}
	w.warm.Store(&warm{Agent: agent, since: time.Now()})
	return nil
}

// mayWarm reports whether the user has an idle workspace in which an agent may wait.
func (p *Pool) mayWarm(user dreamcore.UserID) bool {
	free, err := p.free()
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[user]
	switch {
	case e == nil || e.state != StateIdle || p.closing || p.limits.WarmAgents <= 0:
		return false
	case p.limits.MinFree > 0 && err == nil && free < p.limits.MinFree+warmReserve:
		return false
	}
	return true
}

// Bounds of the agents that are started because a client looks at a project.
const (
	hintPause = 10 * time.Second // how long WantsAgent says no to a user after it has said yes
	hintAge   = time.Minute      // how long another agent has waited that is ended for one
)

// WantsAgent reports whether an agent may be started for a user who only looks at a
// project: none waits yet, except for one that was there before the user; there is room
// for it, or one that no job has needed for hintAge; and hintPause has passed.
func (p *Pool) WantsAgent(user dreamcore.UserID) bool {
	if !p.mayWarm(user) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[user]
	if e == nil || e.state != StateIdle || e.chosen() || time.Since(e.hinted) < hintPause {
		return false
	}
	others := p.agents()
	if e.waiting() != nil {
		others--
	}
	if _, since := p.oldestAgent(); others >= p.limits.WarmAgents && time.Since(since) < hintAge {
		return false
	}
	e.hinted = time.Now()
	return true
}

// Agents returns the number of agents that wait.
func (p *Pool) Agents() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.agents()
}

// agents is Agents with mu held.
func (p *Pool) agents() (n int) {
	for _, e := range p.entries {
		if e.waiting() != nil {
			n++
		}
	}
	return n
}

// waiting returns the agent that waits for the next job of the entry's user, or nil.
// It must be called with mu held.
func (e *entry) waiting() *warm {
	if e.state != StateIdle {
		return nil
	}
	return e.workspace.waiting()
}

// chosen reports whether an agent waits that was started for the user. It must be called
// with mu held.
func (e *entry) chosen() bool {
	a := e.waiting()
	return a != nil && !a.first
}

// limitAgents ends the agents above the limit. It must be called with mu held.
func (p *Pool) limitAgents() {
	for n := p.agents(); n > p.limits.WarmAgents; n-- {
		p.shedAgent()
	}
}

// oldestAgent returns the entry whose agent waits for longest, or nil, and since when.
// An agent may end at any time. It must be called with mu held.
func (p *Pool) oldestAgent() (oldest *entry, since time.Time) {
	for _, e := range p.entries {
		if a := e.waiting(); a != nil && (oldest == nil || a.since.Before(since)) {
			oldest, since = e, a.since
		}
	}
	return oldest, since
}

// shedAgent ends the agent that waits for longest, in the background, and reports
// whether there was one. It must be called with mu held.
func (p *Pool) shedAgent() bool {
	e, _ := p.oldestAgent()
	if e == nil {
		return false
	}
	// The entry is held meanwhile, so that the next job begins after the end.
	e.state, e.held = StateLeased, true
	p.wg.Go(func() {
		err := e.workspace.EndAgent(context.Background())
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			p.end(e, err)
		}
		p.giveBack(e)
		p.measure = true // what it has freed counts
		p.wake()
	})
	return true
}
