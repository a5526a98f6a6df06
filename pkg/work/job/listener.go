package job

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// liveJob is a job that has not ended, with its listeners: the clients that
// follow its events. A job whose last listener has left is cancelled
//
//   - at once if it waits in the queue, or if its user has asked for another
//     game, which then waits for the end of this one;
//   - otherwise after the grace, unless a listener comes back first.
//
// This does not apply to jobs that run on without listeners, nor while the
// service is stopping. The fields below stop are guarded by Service.mu.
type liveJob struct {
	id    string
	user  dreamcore.UserID
	slot  *slot
	grace time.Duration
	runOn bool // without listeners
	stop  context.CancelCauseFunc

	listeners int
	abandoned *time.Timer // cancels the job after its grace; nil unless it is running
	cancelled bool
}

// Attach makes the caller a listener of a job until ctx ends. It does nothing for
// a job that has ended or never existed.
func (s *Service) Attach(ctx context.Context, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.jobs[id]; l != nil {
		s.listen(ctx, l)
	}
}

// listen adds a listener until ctx ends. It must be called with mu held.
func (s *Service) listen(ctx context.Context, l *liveJob) {
	l.listeners++
	l.stopTimer()
	context.AfterFunc(ctx, func() { s.leave(l) })
}

// leave removes a listener.
func (s *Service) leave(l *liveJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.listeners--
	if l.listeners > 0 || l.runOn || s.closed || s.jobs[l.id] != l {
		return
	}
	switch {
	case s.wantsAnother(l):
		s.end(l, errReplaced)
	case l.grace <= 0 || l.slot.isWaiting():
		s.end(l, errAbandoned)
	default:
		s.startTimer(l)
	}
}

// startTimer must be called with mu held.
func (s *Service) startTimer(l *liveJob) {
	var timer *time.Timer
	timer = time.AfterFunc(l.grace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		// A timer that was stopped too late is no longer the current one.
		if l.abandoned == timer && !s.closed {
			s.end(l, errAbandoned)
		}
	})
	l.abandoned = timer
}

func (l *liveJob) stopTimer() {
	if l.abandoned != nil {
		l.abandoned.Stop()
		l.abandoned = nil
	}
}

// wantsAnother reports whether another game of the user waits for the end of
// this one. It must be called with mu held.
func (s *Service) wantsAnother(l *liveJob) bool {
	for _, other := range s.jobs {
		if other.user == l.user && other != l && other.slot.isWaiting() {
			return true
		}
	}
	return false
}

// replace cancels the jobs of a user that have no listener. It must be called
// with mu held.
func (s *Service) replace(user dreamcore.UserID) {
	for _, l := range s.jobs {
		if l.user == user && l.listeners == 0 && !l.runOn {
			s.end(l, errReplaced)
		}
	}
}

// Cancel stops a job; its last event says that it was interrupted. A job that
// waits in the queue never starts. Cancel does nothing for a job that has ended
// or never existed.
func (s *Service) Cancel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.jobs[id]; l != nil {
		s.end(l, errCancelled)
	}
}

// end cancels a job. It must be called with mu held.
func (s *Service) end(l *liveJob, why error) {
	l.stopTimer()
	if l.cancelled {
		return
	}
	l.cancelled = true
	s.log.Info("a job is cancelled", "job", l.id, "user", string(l.user), "reason", why)
	l.stop(why)
	l.slot.withdraw()
}

// State returns the state of a job, JobQueued or JobRunning; ok is false for
// one that has ended or never existed. cancelled reports that the job is about to
// end because it was cancelled.
func (s *Service) State(id string) (state dreamcore.JobState, cancelled, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.jobs[id]
	switch {
	case l == nil:
		return "", false, false
	case l.slot.isWaiting():
		return dreamcore.JobQueued, l.cancelled, true
	}
	return dreamcore.JobRunning, l.cancelled, true
}

// forget removes a job that has ended from the list.
func (s *Service) forget(l *liveJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.stopTimer()
	l.stop(nil)
	delete(s.jobs, l.id)
}
