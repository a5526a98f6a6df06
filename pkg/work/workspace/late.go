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
	// primeLimit bounds Parts.Prime, and the start of an agent that waits.
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
			w := sb.(*Workspace)
			switch {
			case w.stale():
				return errStale
			case !p.agentFits(w):
				return errAgent
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

// Parking are agents that wait in standby sandboxes for the first job of a user, whoever
// that will be.
type Parking interface {
	// Park starts an agent, whose HOME is LateHome, and returns when it waits. ctx bounds
	// the start. After an error the caller ends what runs in the workspace.
	Park(ctx context.Context, w *Workspace) (Agent, error)
	// Fits reports whether a job would take an agent that Park has started.
	Fits(w *Workspace, a Agent) bool
}

// Parks sets where the agents of standby sandboxes come from. Without, and while WarmAgents
// is 0, none wait.
func (p *Pool) Parks(parking Parking) { p.parking.Store(&parking) }

// parkingPause is how long no agents wait in standby sandboxes after one could not be used:
// the program may be one that never can, or the machine too busy.
const parkingPause = 10 * time.Minute

// PauseParking ends the agents that wait in standby sandboxes, and starts none for ten
// minutes, or until the settings change. They cannot be used because of why.
func (p *Pool) PauseParking(why error) {
	p.unparked.Store(time.Now().UnixNano())
	p.log.Error("agents in standby sandboxes cannot be used: none wait there for a while", "pause", parkingPause, "error", why)
}

// ParkingPaused reports whether PauseParking was called a short time ago.
func (p *Pool) ParkingPaused() bool {
	return time.Since(time.Unix(0, p.unparked.Load())) < parkingPause
}

// parks returns the parking, or nil while no agent is to wait in standby sandboxes.
func (p *Pool) parks() Parking {
	if parking := p.parking.Load(); parking != nil && p.mayPark.Load() && !p.ParkingPaused() {
		return *parking
	}
	return nil
}

// agentFits reports whether a job would take the agent of a standby sandbox, or none is to
// wait there and none does.
func (p *Pool) agentFits(w *Workspace) bool {
	a, parking := w.Agent(), p.parks()
	if a == nil || parking == nil || w.template.AgentFile == "" {
		return a == nil && (parking == nil || w.template.AgentFile == "")
	}
	return parking.Fits(w, a)
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
	preparing, cancel := context.WithTimeout(ctx, primeLimit)
	defer cancel()
	var err error
	if parking := p.parks(); parking != nil {
		var a Agent
		if a, err = parking.Park(preparing, w); err == nil {
			p.letWait(w, &warm{a, time.Now(), true})
			return nil
		}
		if ctx.Err() == nil {
			p.PauseParking(err)
		}
	} else if p.parts.Prime != nil {
		if err = p.parts.Prime(preparing, w); err != nil {
			p.log.Warn("the agent cannot be run ahead in a standby sandbox", "sandbox", w.ID(), "error", err)
		}
	}
	cleaning, stop := context.WithTimeout(ctx, cleanLimit)
	defer stop()
	return w.clean(cleaning)
}

// letWait makes an agent wait in a standby sandbox, and tells if it ends there by itself.
func (p *Pool) letWait(w *Workspace, a *warm) {
	w.warm.Store(a)
	go func() {
		select {
		case <-a.Done():
		case <-w.Lost():
			return
		}
		if w.warm.Load() == a && !isClosed(w.Lost()) { // nobody has taken it
			p.log.Warn("the agent that waited in a standby sandbox has ended", "sandbox", w.ID(), "after", time.Since(a.since).Round(time.Millisecond))
		}
	}()
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
	if a := w.waiting(); a != nil {
		w.warm.Store(&warm{a.Agent, time.Now(), true}) // it waits for this user from now on
	}
	return nil
}
