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
	waiting []*caller                 // guarded by mu; the next one first
}

// caller is a call that waits. Those of one user are in the order of their arrival.
type caller struct {
	user     dreamcore.UserID
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
	c := &caller{user: user, admitted: make(chan struct{}), patient: patient}
	l.mu.Lock()
	if !patient && l.impatient(user) >= l.limits.Waiting {
		l.mu.Unlock()
		return nil, errBusy(nil)
	}
	l.waiting = append(l.waiting, c)
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
	at := slices.Index(l.waiting, c)
	if at >= 0 {
		l.waiting = slices.Delete(l.waiting, at, at+1)
	}
	l.mu.Unlock()
	if at < 0 { // it was admitted concurrently
		leave()
	}
	return nil, ctx.Err()
}

// impatient counts a user's calls that Limits.Waiting bounds. It must be called
// with mu held.
func (l *Limiter) impatient(user dreamcore.UserID) (n int) {
	for _, c := range l.waiting {
		if c.user == user && !c.patient {
			n++
		}
	}
	return n
}

// admit admits callers whose turn it is. It must be called with mu held.
func (l *Limiter) admit() {
	for len(l.running) < l.limits.Running {
		i := slices.IndexFunc(l.waiting, func(c *caller) bool { return !l.running[c.user] })
		if i < 0 {
			break
		}
		next := l.waiting[i]
		// The user's other calls go behind those of all others.
		var own, others []*caller
		for _, c := range l.waiting {
			switch {
			case c == next:
			case c.user == next.user:
				own = append(own, c)
			default:
				others = append(others, c)
			}
		}
		l.waiting = slices.Concat(others, own)
		l.running[next.user] = true
		close(next.admitted)
	}
}
