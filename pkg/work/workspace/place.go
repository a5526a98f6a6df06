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

// State is what a member does.
type State string

// The states of a member, in the order of a life.
const (
	StateStarting State = "starting"
	StateIdle     State = "idle"
	StateLeased   State = "leased"
	StateClosing  State = "closing"
)

// Info tells about a member.
type Info struct {
	Name     string           `json:"name"`              // "user-" and the user's id, or SpareName
	Sandbox  string           `json:"sandbox,omitempty"` // none while it starts
	User     dreamcore.UserID `json:"user,omitempty"`    // none of a spare one
	State    State            `json:"state"`
	Created  time.Time        `json:"created"`
	LastUsed time.Time        `json:"last_used"` // the last release, or when it was created
	Jobs     int              `json:"jobs"`      // leases until now
}

// place is one of the pool's places, taken for one user from before the member
// is made until it is closed and nobody holds it. Its fields are guarded by
// the pool's lock; the member, once made, does not change.
type place[M Member] struct {
	user   dreamcore.UserID
	member M
	shut   chan struct{} // closed when there is no member any more
	tried  chan struct{} // closed when closing was tried once

	state   State
	made    bool                    // there is or was a member
	held    bool                    // a lease, or who is on the way to one, has it in hand
	cut     context.CancelCauseFunc // ends what the holder does; nil when nobody holds it
	why     error                   // why it closes
	stuck   bool                    // closing failed at least once
	fault   error                   // of the last try
	created time.Time
	used    time.Time
	jobs    int
}

// reason is an ordinary end of a member; any other cause is a fault.
type reason string

func (r reason) Error() string { return string(r) }

const (
	errStale   = reason("the settings it was made from have changed")
	errOld     = reason("it is over the age limit")
	errIdle    = reason("it was idle for too long")
	errEvicted = reason("another user needs the place")
	errCrowded = reason("there are more than the limit")
	errMemory  = reason("memory is short")
)

// Name is the name of the user's member.
func Name(user dreamcore.UserID) string { return "user-" + string(user) }

// List tells about every member, by name.
func (p *Pool[M]) List() []Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]Info, 0, len(p.places))
	for _, s := range p.places {
		i := Info{Name: Name(s.user), User: s.user, State: s.state, Created: s.created, LastUsed: s.used, Jobs: s.jobs}
		if s.made {
			i.Sandbox = s.member.ID()
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// The methods below are called with the lock held, but where they say else.

func (p *Pool[M]) named(name string) *place[M] {
	user, ok := strings.CutPrefix(name, Name(""))
	if !ok {
		return nil
	}
	return p.places[dreamcore.UserID(user)]
}

func (s *place[M]) isShut() bool { return isClosed(s.shut) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// take makes a place for the user, in the hand of who will fill it.
func (p *Pool[M]) take(user dreamcore.UserID) *place[M] {
	now := time.Now()
	s := &place[M]{
		user: user, state: StateStarting, held: true, created: now, used: now,
		shut: make(chan struct{}), tried: make(chan struct{}),
	}
	p.places[user] = s
	p.open++
	p.measure = true // a member more needs memory
	p.poke()
	return s
}

// settle gives the place its member and watches it.
func (p *Pool[M]) settle(s *place[M], m M) {
	s.member, s.made = m, true
	p.wg.Go(func() { p.watch(s) })
}

// arm returns the context of what the holder of a place does next, which ends
// when the member does. It takes the lock itself.
func (p *Pool[M]) arm(ctx context.Context, s *place[M]) (context.Context, context.CancelCauseFunc) {
	ctx, cut := context.WithCancelCause(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	s.cut = cut
	switch {
	case s.why != nil:
		cut(s.why)
	case s.made && isClosed(s.member.Lost()): // watch may have looked already
		cut(s.lost())
	}
	return ctx, cut
}

func (s *place[M]) lost() error {
	return fmt.Errorf("sandbox %s of user %s: %w", s.member.ID(), s.user, sandbox.ErrLost)
}

// watch waits for the member's end. It takes the lock itself.
func (p *Pool[M]) watch(s *place[M]) {
	select {
	case <-s.member.Lost():
	case <-s.shut:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case s.state == StateIdle:
		p.end(s, s.lost())
	case s.state == StateLeased && s.cut != nil:
		// Nothing runs in it any more. Its traces stay for the holder, who may
		// want to tell why, and go with the release.
		s.cut(s.lost())
	}
}

// unfit tells why a member must not be used again, or nil.
func (p *Pool[M]) unfit(s *place[M]) error {
	now := time.Now()
	switch {
	case p.closing:
		return ErrClosed
	case isClosed(s.member.Lost()):
		return s.lost()
	case s.member.Stale():
		return errStale
	case now.Sub(s.created) >= p.limits.MaxAge:
		return errOld
	case s.state == StateIdle && now.Sub(s.used) >= p.limits.Idle:
		return errIdle
	}
	return nil
}

// crowded tells whether there are more members than Max, those that close
// already left out. Only Apply can bring that about.
func (p *Pool[M]) crowded() bool {
	n := 0
	for _, s := range p.places {
		if s.state != StateClosing {
			n++
		}
	}
	return n > p.limits.Max
}

// evict closes the idle member that was not used for longest.
func (p *Pool[M]) evict(why error) bool {
	var oldest *place[M]
	for _, s := range p.places {
		if s.state == StateIdle && (oldest == nil || s.used.Before(oldest.used)) {
			oldest = s
		}
	}
	if oldest != nil {
		p.end(oldest, why)
	}
	return oldest != nil
}

// rest is how a holder gives a place back: its member is idle from here on, or
// closes.
func (p *Pool[M]) rest(s *place[M]) {
	s.held, s.cut = false, nil
	if s.state != StateClosing {
		s.state = StateIdle
		why := p.unfit(s)
		if why == nil && p.crowded() {
			why = errCrowded
		}
		if why != nil {
			p.end(s, why)
		}
	}
	p.vacate(s)
	p.admit()
	p.poke()
}

// end closes the member of a place in the background and ends what its holder
// does.
func (p *Pool[M]) end(s *place[M], why error) {
	if s.state == StateClosing {
		return
	}
	s.state, s.why = StateClosing, why
	if s.cut != nil {
		s.cut(why)
	}
	if s.made { // else whoever makes it ends it
		p.wg.Go(func() { p.dismiss(s) })
	}
}

func (p *Pool[M]) endAll(states ...State) {
	for _, s := range p.places {
		if slices.Contains(states, s.state) {
			p.end(s, ErrClosed)
		}
	}
}

// shut notes that the place has no member any more.
func (p *Pool[M]) shut(s *place[M]) {
	if !s.stuck {
		close(s.tried)
	}
	close(s.shut)
	p.open--
	if p.closing && p.open == 0 {
		close(p.drained)
	}
}

// vacate frees the place when its member is closed and nobody holds it.
func (p *Pool[M]) vacate(s *place[M]) {
	if s.isShut() && !s.held {
		delete(p.places, s.user)
	}
}
