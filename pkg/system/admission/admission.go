// Package admission bounds how many expensive operations run at once: those
// whose memory use depends on what a sandbox has written, such as the diff of a
// version or the first version of a project. Each user runs one at a time and
// the host a few. Waiting users take turns, regardless of how many requests each
// of them has.
package admission

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Defaults of Limits.
const (
	DefaultRunning  = 2
	DefaultWaiting  = 4
	DefaultPatience = 20 * time.Second
)

// Limits of a Limiter. Zero values select the defaults.
type Limits struct {
	Running  int           // concurrent operations on the host
	Waiting  int           // waiting calls of Enter per user
	Patience time.Duration // how long Enter waits at most
}

// Limiter admits expensive operations. Its methods are safe for concurrent use.
// A nil Limiter admits all operations at once.
type Limiter struct {
	limits Limits

	mu      sync.Mutex
	running map[dreamcore.UserID]bool // guarded by mu
	queues  []*queue                  // guarded by mu; users with waiting calls, next one first
}

// queue holds the waiting calls of one user, oldest first.
type queue struct {
	user    dreamcore.UserID
	callers []*caller
}

type caller struct {
	admitted chan struct{} // closed when it is the caller's turn
	patient  bool          // not counted by Limits.Waiting
}

// New returns a Limiter.
func New(l Limits) *Limiter {
	if l.Running <= 0 {
		l.Running = DefaultRunning
	}
	if l.Waiting <= 0 {
		l.Waiting = DefaultWaiting
	}
	if l.Patience <= 0 {
		l.Patience = DefaultPatience
	}
	return &Limiter{limits: l, running: map[dreamcore.UserID]bool{}}
}

// Enter waits until an operation of a user is admitted. The caller must call
// leave once at the operation's end. The error is dreamcore.CodeBusy if too many
// of the user's operations wait or the wait took too long, else ctx's error.
func (l *Limiter) Enter(ctx context.Context, user dreamcore.UserID) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	limited, cancel := context.WithTimeout(ctx, l.limits.Patience)
	defer cancel()
	leave, err = l.enter(limited, user, false)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, errBusy(err)
	}
	return leave, err
}

// Wait is like Enter for work that must be done, such as saving a job's result:
// the wait ends only with ctx.
func (l *Limiter) Wait(ctx context.Context, user dreamcore.UserID) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	return l.enter(ctx, user, true)
}

func errBusy(cause error) error {
	return &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "Too many large operations are running", Hint: "try again in a few seconds", Err: cause}
}

func (l *Limiter) enter(ctx context.Context, user dreamcore.UserID, patient bool) (leave func(), err error) {
	c := &caller{admitted: make(chan struct{}), patient: patient}
	l.mu.Lock()
	q := l.queueOf(user)
	if !patient && q.impatient() >= l.limits.Waiting {
		l.mu.Unlock()
		return nil, errBusy(nil)
	}
	q.callers = append(q.callers, c)
	l.admit()
	l.mu.Unlock()
	leave = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.running, user)
		l.admit()
	}
	select {
	case <-c.admitted:
		return leave, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	gaveUp := l.forget(user, c)
	l.mu.Unlock()
	if !gaveUp { // it was admitted concurrently
		leave()
	}
	return nil, ctx.Err()
}

// queueOf returns the queue of a user. It must be called with mu held.
func (l *Limiter) queueOf(user dreamcore.UserID) *queue {
	for _, q := range l.queues {
		if q.user == user {
			return q
		}
	}
	q := &queue{user: user}
	l.queues = append(l.queues, q)
	return q
}

func (q *queue) impatient() (n int) {
	for _, c := range q.callers {
		if !c.patient {
			n++
		}
	}
	return n
}

// admit admits callers whose turn it is. It must be called with mu held.
func (l *Limiter) admit() {
	for len(l.running) < l.limits.Running {
		i := slices.IndexFunc(l.queues, func(q *queue) bool { return len(q.callers) > 0 && !l.running[q.user] })
		if i < 0 {
			break
		}
		q := l.queues[i]
		l.queues = slices.Delete(l.queues, i, i+1)
		c := q.callers[0]
		if q.callers = q.callers[1:]; len(q.callers) > 0 {
			l.queues = append(l.queues, q) // behind all others
		}
		l.running[q.user] = true
		close(c.admitted)
	}
}

// forget removes a caller from its queue, and reports whether it was still in
// it. It must be called with mu held.
func (l *Limiter) forget(user dreamcore.UserID, c *caller) bool {
	for i, q := range l.queues {
		if q.user != user {
			continue
		}
		at := slices.Index(q.callers, c)
		if at < 0 {
			return false
		}
		if q.callers = slices.Delete(q.callers, at, at+1); len(q.callers) == 0 {
			l.queues = slices.Delete(l.queues, i, i+1)
		}
		return true
	}
	return false
}
