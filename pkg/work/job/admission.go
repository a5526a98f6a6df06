package job

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// admission decides which generations run. It keeps these rules:
//
//   - at most limits.running generations run at once, and one of each user;
//   - the generations of a user run in the order in which they came;
//   - users take turns. A user joins the end of the line with the first
//     generation that waits, and again each time one of them is admitted while
//     more are waiting. So no matter how many generations a user has waiting,
//     another user lets at most one of them go first;
//   - a user whose generation is running is passed over and keeps the place in
//     the line;
//   - a slot is never free while a user without a running generation waits.
type admission struct {
	mu      sync.Mutex
	limits  admissionLimits
	running int
	waiting int
	users   map[dreamcore.UserID]*account // those with a generation
	line    []*account                    // those with a waiting one, in the order of their turns
}

// admissionLimits bounds an admission.
type admissionLimits struct {
	running int // generations that run at once
	waiting int // generations that wait
	perUser int // generations of one user beyond the first
}

// account is the generations of one user; the mutex of the admission guards it.
type account struct {
	running *ticket // nil if none
	waiting []*ticket
}

// ticket is the right of a generation to run, now or later. Its owner must
// call leave.
type ticket struct {
	adm  *admission
	user dreamcore.UserID
	move chan struct{} // gets a value when the place has changed; sends never block

	// Guarded by adm.mu.
	in    bool // it runs
	left  bool
	place int // in the queue, from 1; 0 unless it waits
}

func newAdmission(l admissionLimits) *admission {
	return &admission{limits: l, users: map[dreamcore.UserID]*account{}}
}

// enter returns a ticket, or fails with CodeBusy if the user or the machine
// has too many generations waiting.
func (a *admission) enter(user dreamcore.UserID) (*ticket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.users[user]
	if u == nil {
		u = &account{}
	}
	t := &ticket{adm: a, user: user, move: make(chan struct{}, 1)}
	switch {
	case u.running == nil && len(u.waiting) == 0 && a.running < a.limits.running:
		u.running, t.in = t, true
		a.running++
	case u.count() > a.limits.perUser:
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Message: fmt.Sprintf("this user has %d generations running or waiting already", u.count()),
			Hint: "wait until one has ended, or cancel one with POST /jobs/ID/cancel",
		}
	case a.waiting >= a.limits.waiting:
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Message: fmt.Sprintf("the queue is full: %d generations are waiting", a.waiting),
			Hint: "try again later, or raise max_generations or max_waiting of the service",
		}
	default:
		if len(u.waiting) == 0 {
			a.line = append(a.line, u)
		}
		u.waiting = append(u.waiting, t)
		a.waiting++
	}
	a.users[user] = u
	a.number()
	return t, nil
}

// count returns the number of the user's generations.
func (u *account) count() int {
	if u.running != nil {
		return len(u.waiting) + 1
	}
	return len(u.waiting)
}

// wait returns when the generation may run. It calls tell with the place in
// the queue, from 1, whenever that has changed. It fails with the cause of ctx
// if that ends first; a generation whose ctx has ended never runs.
func (t *ticket) wait(ctx context.Context, tell func(place int)) error {
	for told := 0; ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.adm.mu.Lock()
		in, place := t.in, t.place
		t.adm.mu.Unlock()
		if in {
			return nil
		}
		if place != told && place != 0 {
			tell(place)
			told = place
		}
		select {
		case <-t.move:
		case <-ctx.Done():
		}
	}
}

// isWaiting reports whether the generation has not been admitted yet.
func (t *ticket) isWaiting() bool {
	t.adm.mu.Lock()
	defer t.adm.mu.Unlock()
	return !t.in && !t.left
}

// withdraw takes a generation that waits out of the queue. One that runs keeps
// its slot until it leaves.
func (t *ticket) withdraw() {
	t.adm.mu.Lock()
	defer t.adm.mu.Unlock()
	if !t.in {
		t.release()
	}
}

// leave gives the slot, or the place in the queue, to the next. It may be
// called more than once.
func (t *ticket) leave() {
	t.adm.mu.Lock()
	defer t.adm.mu.Unlock()
	t.release()
}

// release must be called with adm.mu held.
func (t *ticket) release() {
	if t.left {
		return
	}
	t.left = true
	a := t.adm
	u := a.users[t.user]
	if t.in {
		u.running = nil
		a.running--
	} else {
		u.waiting = without(u.waiting, t)
		a.waiting--
		t.place = 0
		if len(u.waiting) == 0 {
			a.line = without(a.line, u)
		}
	}
	if u.count() == 0 {
		delete(a.users, t.user)
	}
	a.admit()
}

// resize changes the limits; generations that run or wait already stay.
func (a *admission) resize(l admissionLimits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limits = l
	a.admit()
}

// admit gives the free slots to users in the order of the line. It must be
// called with mu held.
func (a *admission) admit() {
	for a.running < a.limits.running {
		i := slices.IndexFunc(a.line, func(u *account) bool { return u.running == nil })
		if i < 0 {
			break
		}
		u := a.line[i]
		t := u.waiting[0]
		u.running, u.waiting = t, slices.Delete(u.waiting, 0, 1)
		a.line = slices.Delete(a.line, i, i+1)
		if len(u.waiting) > 0 {
			a.line = append(a.line, u)
		}
		a.running++
		a.waiting--
		t.in, t.place = true, 0
		t.notify()
	}
	a.number()
}

// number gives every waiting generation its place: the order in which they
// would run if every user in the line could. A place can grow, when a user
// joins whose first generation goes before another user's second. It must be
// called with mu held.
func (a *admission) number() {
	place := 0
	for round := 0; place < a.waiting; round++ {
		for _, u := range a.line {
			if round >= len(u.waiting) {
				continue
			}
			place++
			if t := u.waiting[round]; t.place != place {
				t.place = place
				t.notify()
			}
		}
	}
}

func (t *ticket) notify() {
	select {
	case t.move <- struct{}{}:
	default:
	}
}

func without[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	return slices.Delete(list, i, i+1)
}
