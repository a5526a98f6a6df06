package job

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Leave ends the work for users who are about to live in another cell, whom Parts.Admit
// refuses already, so that everything of theirs can be copied. Jobs that wait in the
// queue are left to the other cell at once, and so are running ones if cut is set: they
// go on there with another attempt. It waits up to a time for what runs, and returns how
// many jobs and checks still do; then it can be called again.
func (s *Service) Leave(ctx context.Context, of func(dreamcore.UserID) bool, wait time.Duration, cut bool) (running int, err error) {
	if err := s.settled(ctx, ""); err != nil {
		return 0, err
	}
	s.submitting.Lock() // a job that was admitted is in the list
	s.mu.Lock()
	var done []<-chan struct{}
	for _, l := range s.jobs {
		if !of(l.user) {
			continue
		}
		done = append(done, l.done)
		if s.parts.Resume && !l.cancelled && (cut || l.slot.isWaiting()) {
			l.stop(errSuspended)
		}
	}
	for c := range s.checks {
		if of(c.user) {
			done = append(done, c.done)
			if cut {
				c.cancel(errCheckEnded)
			}
		}
	}
	s.mu.Unlock()
	s.submitting.Unlock()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for _, d := range done {
		select {
		case <-d:
		case <-ctx.Done():
			if !isClosed(d) {
				running++
			}
		}
	}
	return running, nil
}

// IDs returns the ids, sorted, of all jobs of a user.
func (s *Service) IDs(ctx context.Context, user dreamcore.UserID) ([]string, error) {
	ids, err := s.jobsOf(ctx, user, "")
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// Adopt takes the logs of jobs of a user into the index, which another cell has written
// and journal.Store.Import has taken over. Jobs that go on are taken up unless
// Parts.Away says that they belong elsewhere; Reconcile does it later. A job whose log
// was removed meanwhile, to make room, is left out. CodeInvalid: a log is not one of a job of this user.
func (s *Service) Adopt(ctx context.Context, user dreamcore.UserID, ids []string) error {
	for _, id := range ids {
		p, err := s.read(id, time.Time{})
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
			continue // logs that came after it took its room
		}
		if err == nil && p.row.User != user {
			err = fmt.Errorf("its user is %.60q", p.row.User)
		}
		if err != nil {
			return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the log of job " + id + " is not one of this user", Hint: "make the archive again", Err: err}
		}
	}
	return s.Reconcile(ctx)
}

// away reports whether the jobs of a user are those of another cell.
func (s *Service) away(user dreamcore.UserID) bool { return s.parts.Away != nil && s.parts.Away(user) }

// lists reports whether the jobs of a user are listed here.
func (s *Service) lists(user dreamcore.UserID) bool {
	return s.parts.Lists == nil || s.parts.Lists(user)
}
