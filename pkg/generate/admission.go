package generate

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// admission lets one generation of a user run at a time and so many of the
// machine; the others wait in the order they came. As a user has one place at
// most, first come first served is fair.
type admission struct {
	mu      sync.Mutex
	limit   int // generations that run at once
	waiting int // generations that may wait
	running int
	users   map[dreamcore.UserID]bool
	queue   []*ticket
}

// ticket is the right to run, now or later. Its owner must leave.
type ticket struct {
	adm  *admission
	user dreamcore.UserID
	move chan struct{} // gets a value when the place may have changed; never blocks
	in   bool          // guarded by adm.mu
	left bool          // guarded by adm.mu
}

func newAdmission(limit, waiting int) *admission {
	return &admission{limit: limit, waiting: waiting, users: map[dreamcore.UserID]bool{}}
}

// enter takes a place, or fails with CodeConflict when the user has one
// already and with CodeBusy when the queue is full.
func (a *admission) enter(user dreamcore.UserID) (*ticket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users[user] {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeConflict, Message: "a generation of this user is already running",
			Hint: "wait until it has ended, then try again",
		}
	}
	t := &ticket{adm: a, user: user, move: make(chan struct{}, 1)}
	switch {
	case a.running < a.limit:
		a.running++
		t.in = true
	case len(a.queue) < a.waiting:
		a.queue = append(a.queue, t)
	default:
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Message: fmt.Sprintf("the queue is full: %d generations are waiting", len(a.queue)),
			Hint: "try again later, or raise max_generations or max_waiting of the service",
		}
	}
	a.users[user] = true
	return t, nil
}

// wait returns when the turn has come. It calls tell with the place in the
// queue, from 1, whenever that has changed.
func (t *ticket) wait(ctx context.Context, tell func(place int)) error {
	for told := 0; ; {
		t.adm.mu.Lock()
		in, place := t.in, slices.Index(t.adm.queue, t)+1
		t.adm.mu.Unlock()
		if in {
			return nil
		}
		if place != told {
			tell(place)
			told = place
		}
		select {
		case <-t.move:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// leave gives the place to the next. It may be called more than once.
func (t *ticket) leave() {
	a := t.adm
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	delete(a.users, t.user)
	if t.in {
		a.running--
	} else if i := slices.Index(a.queue, t); i >= 0 {
		a.queue = slices.Delete(a.queue, i, i+1)
	}
	a.admit()
}

// resize changes the limits; what runs and waits already stays.
func (a *admission) resize(limit, waiting int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit, a.waiting = limit, waiting
	a.admit()
}

func (a *admission) admit() {
	for a.running < a.limit && len(a.queue) > 0 {
		a.queue[0].in = true
		a.running++
		a.queue[0].notify()
		a.queue = slices.Delete(a.queue, 0, 1)
	}
	for _, t := range a.queue {
		t.notify()
	}
}

func (t *ticket) notify() {
	select {
	case t.move <- struct{}{}:
	default:
	}
}
