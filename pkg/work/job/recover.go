package job

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// returnGrace is how much longer than usual listeners may take to come back after a
// restart: they have to notice it first.
const returnGrace = 20 * time.Second

// maxCrashes is how many attempts of a job may end with their process: a job that
// has ended the service that often would do it again.
const maxCrashes = 2

// comeback is a job that this process takes up.
type comeback struct {
	*past
	log *journal.Log
}

// Recover takes up the jobs that an earlier process has left without an end: those
// that waited, in the order of their turns, and those that ran, whose agents go on
// with another attempt. Then it ends those that were cancelled, and those that have
// used up their attempts. Jobs without a listener are cancelled after a grace, as
// usual, which begins now. It may be called again. A job that cannot be taken up,
// because its log is damaged, is logged and left: it must not keep the others from
// going on. It stops when the service is closed: the next process does the rest.
func (s *Service) Recover() error { return s.Recovery()() }

// Recovery is Recover in two steps, so that a service can answer before it has looked
// at every log. Until run, which must be called, has taken up the jobs that go on, new
// jobs and clients that ask for a job of the earlier process wait: no new job gets ahead
// of those that waited.
func (s *Service) Recovery() (run func() error) {
	done := make(chan struct{})
	s.mu.Lock()
	s.recovering, s.recoverErr = done, nil
	s.mu.Unlock()
	failed := func(err error) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.recoverErr = err // before new jobs go on
		return err
	}
	open := sync.OnceFunc(func() { close(done) })
	return func() error {
		defer open()
		ids, err := s.unfinished()
		if err != nil {
			return failed(fmt.Errorf("find unfinished jobs: %w", err))
		}
		if err := s.takeUpLive(ids); err != nil {
			return failed(err)
		}
		open()
		s.endRemnants()
		return nil
	}
}

// unfinished returns the ids of the jobs without an end. Only without a complete
// index, it has to look into every log.
func (s *Service) unfinished() (ids []string, err error) {
	if s.parts.Records == nil || s.parts.Records.Fresh() {
		return s.parts.Journal.Unfinished()
	}
	rows, err := s.parts.Records.Unfinished()
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// takeUp takes up the jobs, if they have not ended, or ends them. Its error is one of
// the index; no job was taken up then.
func (s *Service) takeUp(ids []string) error {
	err := s.takeUpLive(ids)
	s.endRemnants()
	return err
}

// takeUpLive takes up the jobs that go on, and notes the others for endRemnants.
func (s *Service) takeUpLive(ids []string) error {
	s.takingUp.Lock() // so that the jobs of another call stay in their order, too
	defer s.takingUp.Unlock()
	var back []comeback
	for _, id := range ids {
		if s.isClosed() {
			break // restore leaves the others
		}
		goesOn, err := s.examine(id)
		if err == nil && goesOn {
			var c *comeback
			if c, err = s.reopen(id); c != nil {
				back = append(back, *c)
			}
		}
		s.noteFault(id, err)
	}
	return s.restore(back)
}

// examine reports whether a job goes on, and notes for endRemnants one that does not.
// It only reads the log.
func (s *Service) examine(id string) (goesOn bool, err error) {
	if s.has(id) {
		return false, nil
	}
	s.mu.Lock()
	_, ends := s.unended[id]
	s.mu.Unlock()
	if !ends {
		p, err := s.read(id, time.Time{})
		switch {
		case dreamcore.CodeOf(err) == dreamcore.CodeNotFound:
			return false, s.drop(id) // its client has never heard of it
		case err != nil:
			return false, err
		case p.ended:
			return false, s.settle(id)
		case s.away(p.row.User):
			return false, nil
		}
		f, _ := s.verdict(p)
		ends = f != nil || s.isUnheard(p)
	}
	if ends {
		s.addRemnant(id)
	}
	return !ends, nil
}

// isUnheard reports whether a process ended before it had noted what the job is, so
// that no client knows the job.
func (s *Service) isUnheard(p *past) bool {
	return !p.known && p.row.LastEventID == 0 && s.indexed(p.row.ID)
}

// noteFault notes that a job cannot be taken up or ended; err may be nil.
func (s *Service) noteFault(id string, err error) {
	if err != nil && !s.setAside(id, err) {
		s.log.Error("a job that an earlier run left unfinished cannot be taken up", "job", id, "error", err, "hint", dreamcore.HintOf(err))
	}
}

// reopen opens the log of a job that is to go on. It returns nil for a job that has
// ended, that it has ended, or that another process is running.
func (s *Service) reopen(id string) (*comeback, error) {
	if s.has(id) {
		return nil, nil
	}
	s.mu.Lock()
	e, unended := s.unended[id]
	s.mu.Unlock()
	log, err := s.parts.Journal.Reopen(id)
	switch dreamcore.CodeOf(err) {
	case dreamcore.CodeNotFound:
		return nil, s.drop(id) // its client has never heard of it
	case dreamcore.CodeConflict:
		return nil, s.settle(id)
	}
	if err != nil {
		return nil, err
	}
	p, err := s.read(id, log.LeftAt())
	switch {
	case err != nil:
	case s.isUnheard(p):
		return nil, errors.Join(log.Close(), s.parts.Journal.Remove(id), s.drop(id))
	case unended: // it has ended in this process, and may have saved its version
		s.conclude(&liveJob{id: id, user: p.row.User, row: p.row, log: log}, e.last, e.note)
	default:
		f, why := s.verdict(p)
		if f == nil {
			return &comeback{p, log}, nil
		}
		s.endLeft(p, log, *f, why)
	}
	return nil, errors.Join(err, log.Close())
}

// endLeft ends a job instead of taking it up.
func (s *Service) endLeft(p *past, log *journal.Log, f dreamcore.Failure, why string) {
	row := p.row
	s.log.Warn("ended a job that an earlier run left unfinished", "job", row.ID, "user", string(row.User), "reason", why)
	_, tokens, cost, err := s.spent(row.User, row.Project, row.ID, row.Created, p.earlier)
	if err != nil {
		s.log.Error("the record of a job may show too little spending", "job", row.ID, "error", err)
	}
	s.conclude(&liveJob{id: row.ID, user: row.User, row: row, log: log}, dreamcore.ErrorEvent(f, row.Language), endNote{
		At: time.Now(), Code: f.Code, Exit: max(f.ExitCode, 1), Cause: why, Cost: cost, Tokens: tokens,
		Acceptance: p.earlier.accepted, Repairs: p.earlier.repairs,
	})
}

// indexed reports whether a job has a row, so that this version has made its log.
func (s *Service) indexed(id string) bool {
	if s.parts.Records == nil {
		return false
	}
	_, err := s.parts.Records.Get(id)
	return err == nil
}

// drop removes the row of a job without a log. That of a job that has ended expires.
func (s *Service) drop(id string) error {
	if s.parts.Records == nil {
		return nil
	}
	if row, err := s.parts.Records.Get(id); err == nil && row.Final() {
		return s.expire(id)
	}
	return s.parts.Records.Remove(id)
}

// settle completes the row of a job whose process ended between the terminal event
// and the row. It does nothing for a job that another process is running.
func (s *Service) settle(id string) error {
	if s.parts.Records != nil {
		if row, err := s.parts.Records.Get(id); err == nil && row.Final() && !row.Untold {
			return nil // it has ended since
		}
	}
	s.erasing.Lock() // a job that is erased meanwhile gets no row and no webhook
	defer s.erasing.Unlock()
	p, err := s.read(id, time.Time{})
	switch {
	case dreamcore.CodeOf(err) == dreamcore.CodeNotFound:
		return nil
	case err != nil || !p.ended:
		return err
	}
	s.ended(p.row)
	return nil
}

// verdict returns the failure with which a job ends instead of going on, and its
// cause, or nil.
func (s *Service) verdict(p *past) (f *dreamcore.Failure, why string) {
	terminated := dreamcore.ExitFailure(dreamcore.ExitTerminated)
	lost := dreamcore.Failure{Code: dreamcore.FailSandboxLost}
	attempts, crashes := max(s.settings.Load().Attempts, 1), maxCrashes
	if p.earlier.hasGame() { // one more, which only saves it: see exhausted
		attempts, crashes = attempts+1, crashes+1
	}
	var refused error
	if s.parts.Admit != nil && p.known {
		refused = s.parts.Admit(p.row.User, p.row.Project)
	}
	switch e := p.earlier; {
	case p.cancel != "":
		return &terminated, p.cancel
	case refused != nil:
		return &terminated, refused.Error()
	case !p.resume:
		return &terminated, "its process has ended, and no other takes it up"
	case e.crashes >= crashes:
		return &lost, fmt.Sprintf("%d processes have ended while it ran", e.crashes)
	case e.attempts >= attempts:
		return &lost, fmt.Sprintf("the service was stopped or has crashed while it ran, and attempts is %d", attempts)
	}
	return nil, ""
}

// restore runs the jobs, or lets them wait in their places.
func (s *Service) restore(back []comeback) error {
	if len(back) == 0 {
		return nil
	}
	ran, waited, err := s.inOrder(back)
	if err != nil {
		return errors.Join(err, leave(back))
	}
	for _, c := range ran {
		if _, err := c.log.Append(dreamcore.StatusEvent(fmt.Sprintf("The service was restarted; the work goes on with attempt %d", c.earlier.attempts+1))); err != nil {
			s.log.Error("write an event", "job", c.row.ID, "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return leave(back)
	}
	slots := s.admission.restore(users(ran), users(waited))
	for i, c := range slices.Concat(ran, waited) {
		l := s.start(*c.past, c.log, slots[i])
		s.log.Info("took up a job of an earlier process", "job", l.id, "user", string(l.user), "attempts", c.earlier.attempts)
		if l.returning = !l.runOn; l.returning {
			s.startTimer(l, l.grace+s.back)
		}
	}
	return nil
}

// leave leaves the jobs to the next process.
func leave(back []comeback) (err error) {
	for _, c := range back {
		err = errors.Join(err, c.log.Suspend())
	}
	return err
}

// inOrder divides jobs into those that ran and those that waited, each in the order
// in which they continue. The order of users that wait is the one of admission: a
// user has joined the line with the first job that waits, or when the one before was
// admitted.
func (s *Service) inOrder(back []comeback) (ran, waited []comeback, err error) {
	joined := map[dreamcore.UserID]time.Time{}
	slices.SortFunc(back, func(a, b comeback) int {
		return cmp.Or(a.row.Created.Compare(b.row.Created), cmp.Compare(a.row.ID, b.row.ID))
	})
	for _, c := range back {
		if c.earlier.attempts > 0 {
			ran = append(ran, c)
			continue
		}
		waited = append(waited, c)
		if _, known := joined[c.row.User]; !known {
			joined[c.row.User] = c.row.Created
		}
	}
	for user, at := range joined {
		admitted, err := s.lastAdmitted(user, ran)
		if err != nil {
			return nil, nil, err
		}
		if admitted.After(at) {
			joined[user] = admitted
		}
	}
	slices.SortStableFunc(ran, func(a, b comeback) int { return a.row.Started.Compare(b.row.Started) })
	slices.SortStableFunc(waited, func(a, b comeback) int { return joined[a.row.User].Compare(joined[b.row.User]) })
	return ran, waited, nil
}

// admittedShown bounds the rows in which lastAdmitted looks.
const admittedShown = 20

// lastAdmitted returns when the last job of a user was admitted for the first time.
func (s *Service) lastAdmitted(user dreamcore.UserID, ran []comeback) (last time.Time, err error) {
	for _, c := range ran {
		if c.row.User == user && c.row.Started.After(last) {
			last = c.row.Started
		}
	}
	if s.parts.Records == nil {
		return last, nil
	}
	rows, _, err := s.parts.Records.List(dreamcore.JobFilter{User: user, Limit: admittedShown}, nil)
	for _, r := range rows {
		if r.Started.After(last) {
			last = r.Started
		}
	}
	return last, err
}

func users(jobs []comeback) (ids []dreamcore.UserID) {
	for _, c := range jobs {
		ids = append(ids, c.row.User)
	}
	return ids
}

// suspendWaiting leaves the jobs that wait to the next process. It must be called
// with mu held.
func (s *Service) suspendWaiting() {
	s.admission.freeze()
	for _, l := range s.jobs {
		if l.slot.isWaiting() && !l.cancelled {
			l.stop(errSuspended)
		}
	}
}
