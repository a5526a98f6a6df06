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
//   - the generations of a user run in the order in which they arrived;
//   - users take turns. A user joins the end of the line with the first
//     generation that waits, and again each time one of them is admitted while
//     more are waiting. So however many generations a user has waiting, another
//     user lets at most one of them go first;
//   - a user whose generation is running is skipped and keeps the position in
//     the line;
//   - there is no free capacity while a user without a running generation waits.
type admission struct {
	mu      sync.Mutex // guards the fields below, and those of queues and slots
	limits  admissionLimits
	frozen  bool // no more generations are admitted
	running int
	waiting int
	users   map[dreamcore.UserID]*userQueue // of users with a generation
	line    []*userQueue                    // of users with a waiting one, in the order of their turns
}

// admissionLimits bounds an admission.
type admissionLimits struct {
	running int // generations that run at once
	waiting int // generations that wait
	perUser int // generations of one user beyond the first
}

// userQueue holds the generations of one user.
type userQueue struct {
	running *slot // nil if none
	waiting []*slot
}

// slot is the right of a generation to run, now or later. Its owner must call
// leave.
type slot struct {
	adm   *admission
	user  dreamcore.UserID
	moved chan struct{} // gets a value when position or running has changed; sends never block

	// Guarded by adm.mu.
	running  bool
	left     bool
	position int // in the queue, from 1; 0 unless it waits
}

func newAdmission(l admissionLimits) *admission {
	return &admission{limits: l, users: map[dreamcore.UserID]*userQueue{}}
}

// enter returns a slot, or fails with CodeBusy if the user or the machine
// has too many generations waiting.
func (a *admission) enter(user dreamcore.UserID) (*slot, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.users[user]
	if u == nil {
		u = &userQueue{}
	}
	s := &slot{adm: a, user: user, moved: make(chan struct{}, 1)}
	switch {
	case u.running == nil && len(u.waiting) == 0 && a.running < a.limits.running:
		u.running, s.running = s, true
		a.running++
	case u.count() > a.limits.perUser:
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Message: fmt.Sprintf("this user has %d generations running or waiting already", u.count()),
			Hint: "wait until one has ended, or cancel one with POST /jobs/ID/cancel",
		}
	case a.waiting >= a.limits.waiting:
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Message: fmt.Sprintf("the queue is full: %d generations are waiting", a.waiting),
			Hint: "try again later, or raise max_generations or max_waiting in the settings",
		}
	default:
		if len(u.waiting) == 0 {
			a.line = append(a.line, u)
		}
		u.waiting = append(u.waiting, s)
		a.waiting++
	}
	a.users[user] = u
	a.number()
	return s, nil
}

// restore enters the generations of an earlier process, beyond the limits of what
// may wait: those that ran, which run first, and those that waited, in the order of
// their turns.
func (a *admission) restore(ran, waited []dreamcore.UserID) (slots []*slot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, user := range slices.Concat(ran, waited) {
		u := a.users[user]
		if u == nil {
			u = &userQueue{}
			a.users[user] = u
		}
		s := &slot{adm: a, user: user, moved: make(chan struct{}, 1)}
		slots = append(slots, s)
		if i < len(ran) && u.count() == 0 && a.running < a.limits.running && !a.frozen {
			u.running, s.running = s, true
			a.running++
			continue
		}
		if len(u.waiting) == 0 {
			a.line = append(a.line, u)
		}
		u.waiting = append(u.waiting, s)
		a.waiting++
	}
	a.admit()
	return slots
}

// freeze ends the admission: generations that wait stay in the queue.
func (a *admission) freeze() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.frozen = true
}

// count returns the number of the user's generations.
func (u *userQueue) count() int {
	if u.running != nil {
		return len(u.waiting) + 1
	}
	return len(u.waiting)
}

// wait returns when the generation may run. It calls report with the position in
// the queue, from 1, whenever it has changed. It fails with the cause of ctx if
// ctx ends first; a generation whose ctx has ended never runs.
func (s *slot) wait(ctx context.Context, report func(position int)) error {
	for reported := 0; ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.adm.mu.Lock()
		running, position := s.running, s.position
		s.adm.mu.Unlock()
		if running {
			return nil
		}
		if position != reported && position != 0 {
			report(position)
			reported = position
		}
		select {
		case <-s.moved:
		case <-ctx.Done():
		}
	}
}

// place returns the position in the queue, from 1, or 0 if the generation does not
// wait, and whether it was admitted.
func (s *slot) place() (position int, admitted bool) {
	s.adm.mu.Lock()
	defer s.adm.mu.Unlock()
	return s.position, s.running
}

// isWaiting reports whether the generation has not been admitted yet.
func (s *slot) isWaiting() bool {
	s.adm.mu.Lock()
	defer s.adm.mu.Unlock()
	return !s.running && !s.left
}

// withdraw removes a waiting generation from the queue. A running one keeps its
// slot until it leaves.
func (s *slot) withdraw() {
	s.adm.mu.Lock()
	defer s.adm.mu.Unlock()
	if !s.running {
		s.release()
	}
}

// leave frees the slot, or the position in the queue, for the next generation.
// It may be called more than once.
func (s *slot) leave() {
	s.adm.mu.Lock()
	defer s.adm.mu.Unlock()
	s.release()
}

// release implements leave. It must be called with adm.mu held.
func (s *slot) release() {
	if s.left {
		return
	}
	s.left = true
	a := s.adm
	u := a.users[s.user]
	if s.running {
		u.running = nil
		a.running--
	} else {
		u.waiting = without(u.waiting, s)
		a.waiting--
		s.position = 0
		if len(u.waiting) == 0 {
			a.line = without(a.line, u)
		}
	}
	if u.count() == 0 {
		delete(a.users, s.user)
	}
	a.admit()
}

// resize changes the limits. Generations that already run or wait stay.
func (a *admission) resize(l admissionLimits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limits = l
	a.admit()
}

// admit starts generations while there is capacity, in the order of the line. It
// must be called with mu held.
func (a *admission) admit() {
	for !a.frozen && a.running < a.limits.running {
		i := slices.IndexFunc(a.line, func(u *userQueue) bool { return u.running == nil })
		if i < 0 {
			break
		}
		u := a.line[i]
		s := u.waiting[0]
		u.running, u.waiting = s, slices.Delete(u.waiting, 0, 1)
		a.line = slices.Delete(a.line, i, i+1)
		if len(u.waiting) > 0 {
			a.line = append(a.line, u)
		}
		a.running++
		a.waiting--
		s.running, s.position = true, 0
		s.notify()
	}
	a.number()
}

// number sets the position of every waiting generation: the order in which they
// would run if no user were skipped. A position can grow, when a user joins
// whose first generation goes before another user's second. It must be called
// with mu held.
func (a *admission) number() {
	position := 0
	for round := 0; position < a.waiting; round++ {
		for _, u := range a.line {
			if round >= len(u.waiting) {
				continue
			}
			position++
			if s := u.waiting[round]; s.position != position {
				s.position = position
				s.notify()
			}
		}
	}
}

func (s *slot) notify() {
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

func without[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	return slices.Delete(list, i, i+1)
}
