package workspace

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// A standby sandbox for users is listed with this state and name; both are part of
// the API.
const (
	StateUnowned State  = "standby"
	UnownedName  string = "standby"
)

const (
	// lateAge is the age at which a standby sandbox for users is replaced: a fault that
	// keeps new ones from starting is noticed by then.
	lateAge = 15 * time.Minute
	// lateDelay is how long the next one waits after one has got its user, whose game
	// needs the processors more.
	lateDelay = 5 * time.Second
	// primeLimit bounds Parts.Prime.
	primeLimit = 30 * time.Second
	// lateReserve is the memory that must be free beyond MinFree before one is started,
	// in which the agent runs.
	lateReserve = 384 << 20
)

// standby returns the limits of the standby sandboxes for users.
func (l Limits) standby() StandbyLimits {
	return StandbyLimits{Count: l.Standby, MaxAge: lateAge, MinFree: l.MinFree}
}

// newStandby starts to keep workspaces that have no owner.
func (p *Pool) newStandby() *Standby {
	return NewStandby(StandbyConfig{
		StandbyLimits: p.limits.standby(), Delay: lateDelay, Reserve: lateReserve, Free: p.free, Logger: p.log, Busy: p.busy,
		Fit: func(sb sandbox.Sandbox) error {
			if sb.(*Workspace).stale() {
				return errStale
			}
			return nil
		},
		Probe:  func(ctx context.Context, sb sandbox.Sandbox) error { return sb.(*Workspace).probe(ctx) },
		Create: func(ctx context.Context, _ sandbox.Spec) (sandbox.Sandbox, error) { return p.openUnowned(ctx) },
	})
}

// busy reports whether users wait for a workspace, or those in use can take every
// processor: a start of the agent takes two.
func (p *Pool) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	working := 0
	for _, e := range p.entries {
		switch e.state {
		case StateStarting:
			return true
		case StateLeased:
			working++
		}
	}
	return len(p.queue) > 0 || 2*working >= runtime.NumCPU()
}

// Standby describes the sandboxes that are started ahead for users.
func (p *Pool) Standby() []Info {
	if p.standby == nil {
		return nil
	}
	list := p.standby.List()
	for i := range list {
		list[i].Name, list[i].State = UnownedName, StateUnowned
	}
	return list
}

// Ahead sets the function that starts an agent in a standby sandbox for the first job of
// its user, whoever that will be, within the context. HOME of the agent is LateHome. It
// is not called while no agents may wait.
func (p *Pool) Ahead(start func(ctx context.Context, w *Workspace) (Agent, error)) {
	p.ahead.Store(&start)
}

// openUnowned creates a workspace without an owner, in which an agent waits or has run
// once without a prompt. Nothing of a user has been in it.
func (p *Pool) openUnowned(ctx context.Context) (_ *Workspace, err error) {
	w := &Workspace{parts: &p.parts, template: *p.template.Load(), current: &p.template}
	if err := w.create(ctx); err != nil {
		return nil, err
	}
	ready := false
	defer func() {
		if !ready { // an error or a panic
			if cerr := w.Close(context.WithoutCancel(ctx)); cerr != nil {
				p.log.Error("close a standby sandbox", "sandbox", w.ID(), "error", cerr)
			}
		}
	}()
	if err := p.prepare(ctx, w); err != nil {
		return nil, fmt.Errorf("prepare a standby sandbox: %w", err)
	}
	ready = true
	return w, nil
}

// prepare starts an agent that waits in a standby sandbox, or calls Parts.Prime and
// removes what that leaves. A failure of the agent is the next job's to report: the
// sandbox is worth keeping without it.
func (p *Pool) prepare(ctx context.Context, w *Workspace) error {
	if w.template.AgentFile == "" {
		return nil
	}
	p.mu.Lock()
	waits := p.limits.WarmAgents > 0
	p.mu.Unlock()
	preparing, cancel := context.WithTimeout(ctx, primeLimit)
	defer cancel()
	var err error
	if start := p.ahead.Load(); waits && start != nil {
		var a Agent
		if a, err = (*start)(preparing, w); err == nil {
			w.warm.Store(&warm{a, time.Now(), true})
			return nil
		}
	} else if p.parts.Prime != nil {
		err = p.parts.Prime(preparing, w)
	}
	if err != nil {
		p.log.Warn("the agent cannot be started ahead in a standby sandbox", "sandbox", w.ID(), "error", err)
	}
	cleaning, stop := context.WithTimeout(ctx, cleanLimit)
	defer stop()
	return w.clean(cleaning)
}

// takeStandby makes a standby sandbox the user's workspace, which owns dirs then. It
// returns nil if none can be used. No other user has had it, and none will. One that is
// returned with an error must be closed before the user gets another one.
func (p *Pool) takeStandby(ctx context.Context, user dreamcore.UserID, dirs *volume.User) (*Workspace, error) {
	if p.standby == nil {
		return nil, nil
	}
	sb, released := p.standby.takeReady(ctx)
	if sb == nil {
		return nil, nil
	}
	w := sb.(*Workspace)
	w.released = released
	why := error(errStale)
	if !w.stale() {
		if why = w.assign(ctx, user, dirs); why == nil {
			return w, nil
		}
		if !errors.Is(why, sandbox.ErrLost) && ctx.Err() == nil {
			// The next one would fail as well, and each costs its user time.
			p.standby.Disable()
			p.log.Error("a standby sandbox cannot get the directories of a user: no more are started until the next start of the service", "error", why)
		}
	}
	p.log.Warn("a standby sandbox is not used", "sandbox", w.ID(), "user", string(user), "why", why)
	// It may see the directories of the user, who must not get another one before.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	if err := w.Close(closing); err != nil {
		w.owner, w.user = user, dirs // they are closed with it
		return w, fmt.Errorf("close a standby sandbox: %w", err)
	}
	return nil, nil
}

// assign gives the workspace to its only owner. After an error it must be closed, and
// dirs are still the caller's.
func (w *Workspace) assign(ctx context.Context, user dreamcore.UserID, dirs *volume.User) error {
	binder, ok := w.Sandbox.(sandbox.Binder)
	if !ok {
		return errNoBinder
	}
	if err := binder.Bind(ctx, w.userMounts(user, dirs)); err != nil {
		return err
	}
	w.owner, w.user = user, dirs
	w.begin()
	return nil
}
