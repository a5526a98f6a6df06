package job

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// liveJob is a job that has not ended, with its listeners: the clients that
// follow its events. A job whose last listener has left is cancelled
//
//   - at once if it waits in the queue, or if its user has asked for another
//     game, which then waits for the end of this one;
//   - otherwise after the grace, unless a listener comes back first.
//
// After a restart no job has listeners. Each keeps its grace then, whatever its user
// asks for meanwhile, until the first listener is back.
//
// This does not apply to jobs that run on without listeners, nor while the
// service is stopping. The fields below log are guarded by Service.mu.
type liveJob struct {
	id    string
	user  dreamcore.UserID
	slot  *slot
	grace time.Duration
	runOn bool // without listeners
	stop  context.CancelCauseFunc
	log   *journal.Log
	done  chan struct{} // closed when it is forgotten

	row       record.Row
	listeners int
	returning bool        // its listeners of the time before a restart may be on their way
	abandoned *time.Timer // cancels the job after its grace; may be nil
	cancelled bool
	noted     bool // Cancel has noted that in the log
}

// Attach makes the caller a listener of a job until ctx ends. It does nothing for
// a job that has ended or never existed. One of an earlier process is taken up or has
// ended when Attach returns, unless ctx has ended.
func (s *Service) Attach(ctx context.Context, id string) {
	if s.settled(ctx, id) == nil {
		s.attach(ctx, id)
	}
}

func (s *Service) attach(ctx context.Context, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.jobs[id]; l != nil {
		s.listen(ctx, l)
	}
}

// listen adds a listener until ctx ends. It must be called with mu held.
func (s *Service) listen(ctx context.Context, l *liveJob) {
	l.listeners++
	l.returning = false
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
		s.startTimer(l, l.grace)
	}
}

// startTimer must be called with mu held.
func (s *Service) startTimer(l *liveJob, grace time.Duration) {
	var timer *time.Timer
	timer = time.AfterFunc(grace, func() {
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

// replace cancels the jobs of a user that have no listener, and are not waiting for
// one to come back after a restart. It must be called with mu held.
func (s *Service) replace(user dreamcore.UserID) {
	for _, l := range s.jobs {
		if l.user == user && l.listeners == 0 && !l.runOn && !l.returning {
			s.end(l, errReplaced)
		}
	}
}

// Cancel stops a job; its last event says that it was interrupted. A job that
// waits in the queue never starts. A stop or a crash of the service does not undo
// it. Cancel does nothing for a job that has ended or never existed. CodeMoving: the job
// is left to another cell, which its user moves to, and is not cancelled.
func (s *Service) Cancel(id string) error {
	_ = s.settled(context.Background(), id) // it fails only with its context; Close ends the wait
	s.mu.Lock()
	l := s.jobs[id]
	noted := l != nil && l.noted
	s.mu.Unlock()
	if noted {
		return nil
	}
	err := fs.ErrClosed
	if l != nil {
		err = l.log.Note(cancelled())
	}
	if errors.Is(err, fs.ErrClosed) {
		if err := s.checkLeft(id); err != nil {
			return err
		}
	}
	// Close may have suspended the job only just now.
	if errors.Is(err, fs.ErrClosed) && s.isClosed() {
		err = s.cancelSuspended(id)
	}
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		s.log.Error("note that a job is cancelled: the next process will not know", "job", id, "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l != nil && s.jobs[id] == l {
		l.noted = l.noted || err == nil
		s.end(l, errCancelled)
	}
	return nil
}

// checkLeft returns CodeMoving for a job that Leave has left to another cell.
func (s *Service) checkLeft(id string) error {
	j, err := s.Get(id)
	if err != nil || j.Final() || !s.away(j.User) {
		return nil // an unknown job is none to cancel
	}
	return &dreamcore.Error{Code: dreamcore.CodeMoving, Message: "The user is being moved to another cell", Hint: "send the request again after the time in Retry-After"}
}

func cancelled() []byte {
	return note{Cancel: &cancelNote{At: time.Now(), Why: errCancelled.Error()}}.encode()
}

// cancelSuspended makes the next process end a job, if it is suspended, instead of
// taking it up.
func (s *Service) cancelSuspended(id string) error {
	log, err := s.parts.Journal.Reopen(id)
	switch dreamcore.CodeOf(err) {
	case dreamcore.CodeConflict, dreamcore.CodeNotFound:
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(log.Note(cancelled()), log.Suspend())
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
	close(l.done)
}
