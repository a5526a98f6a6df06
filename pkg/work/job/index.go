package job

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// reconcileBatch is how many rows are written at once.
const reconcileBatch = 200

// Reconcile makes the index follow the logs: it adds the rows of logs that the index
// does not know (of another process or an earlier version, or all of them after the
// index was lost), drops those whose log is gone, and takes up jobs that were left.
// The service works meanwhile. It needs no call for what the service itself does. A log
// that cannot be read is logged and left.
func (s *Service) Reconcile(ctx context.Context) error {
	records := s.parts.Records
	if records == nil {
		return nil
	}
	s.reconciling.Lock()
	defer s.reconciling.Unlock()
	if err := s.putLive(); err != nil {
		return err
	}
	logs, err := s.parts.Journal.Jobs()
	if err != nil {
		return err
	}
	missing, err := records.Missing(logs)
	if err != nil {
		return err
	}
	left, err := s.addRows(ctx, missing)
	if err != nil {
		return err
	}
	if err := s.dropRows(logs); err != nil {
		return err
	}
	rows, err := records.Unfinished()
	if err != nil {
		return err
	}
	for _, r := range rows {
		left = append(left, r.ID)
	}
	if err := s.takeUp(left); err != nil {
		return err
	}
	if !records.Fresh() {
		return nil
	}
	return records.Complete()
}

// putLive writes the rows of the jobs of this process.
func (s *Service) putLive() error {
	if !s.parts.Records.Fresh() {
		return nil
	}
	var rows []record.Row
	s.mu.Lock()
	defer s.mu.Unlock() // until the rows are written: a job that ends meanwhile writes its row after them
	for _, l := range s.jobs {
		rows = append(rows, l.row)
	}
	return s.parts.Records.Put(rows...)
}

// addRows adds the rows of jobs that have ended, and returns those that have not. It
// skips logs that it cannot read.
func (s *Service) addRows(ctx context.Context, ids []string) (left []string, err error) {
	var rows []record.Row
	flush := func() error {
		err := s.putRead(rows)
		rows = rows[:0]
		return err
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p, err := s.read(id, time.Time{})
		switch {
		case dreamcore.CodeOf(err) == dreamcore.CodeNotFound:
			continue // removed meanwhile
		case s.setAside(id, err):
			continue
		case err != nil:
			s.log.Error("the log of a job cannot be read, so the job is not listed", "job", id, "error", err)
			continue // the next call tries it again
		case !p.ended, p.untold && s.parts.Tell != nil: // takeUp tells the end
			left = append(left, id)
			continue
		}
		if rows = append(rows, p.row); len(rows) == reconcileBatch {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return left, flush()
}

// setAside sets the log of a job aside if err says that it is damaged, so that it is
// noticed once and does not stay forever. It reports whether it has.
func (s *Service) setAside(id string, err error) bool {
	if !isDamage(err) {
		return false
	}
	if aside := s.parts.Journal.SetAside(id); aside != nil {
		return false // it is in use, or the disk does not let us: the next call tries it again
	}
	s.log.Error("the log of a job is damaged: it is set aside, and removed after journal_days", "job", id, "error", err)
	if s.parts.Records != nil {
		if err := s.parts.Records.Expire(id); err != nil {
			s.log.Error("remove the record of a damaged job", "job", id, "error", err)
		}
	}
	return true
}

// errDamaged is wrapped by the errors of read that come from the content of a log, not
// from the system, which may recover.
var errDamaged = errors.New("the log is damaged")

// isDamage reports whether an error says that a log can never be read.
func isDamage(err error) bool { return errors.Is(err, errDamaged) || errors.Is(err, syscall.EISDIR) }

// maxDamagedBytes bounds the disk space of logs that were set aside.
const maxDamagedBytes = 64 << 20

// PruneDamaged removes the logs that were set aside before a time, or that take too
// much space.
func (s *Service) PruneDamaged(ctx context.Context, olderThan time.Time) error {
	removed, err := s.parts.Journal.PruneDamaged(ctx, olderThan, maxDamagedBytes)
	for _, id := range removed {
		s.log.Warn("removed the damaged log of a job", "job", id)
	}
	return err
}

// putRead writes rows that were read from logs, without those whose logs were erased
// since: an erased job must not come back.
func (s *Service) putRead(rows []record.Row) error {
	s.erasing.Lock()
	defer s.erasing.Unlock()
	var kept []record.Row
	for _, r := range rows {
		switch _, err := s.parts.Journal.Last(r.ID); {
		case err == nil:
			kept = append(kept, r)
		case dreamcore.CodeOf(err) != dreamcore.CodeNotFound:
			return err
		}
	}
	return s.parts.Records.Put(kept...)
}

// dropRows removes the rows of jobs whose logs are gone: the process ended between
// the removal of the log and that of the row.
func (s *Service) dropRows(logs []string) error {
	has := make(map[string]bool, len(logs))
	for _, id := range logs {
		has[id] = true
	}
	gone, err := s.parts.Records.Extra(func(id string) bool { return has[id] })
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range gone {
		errs = append(errs, s.expire(id))
	}
	return errors.Join(errs...)
}

// expire removes a row unless there is a log, which may be new.
func (s *Service) expire(id string) error {
	s.submitting.Lock() // between a row and its log
	defer s.submitting.Unlock()
	s.mu.Lock()
	live := s.jobs[id] != nil
	s.mu.Unlock()
	if live {
		return nil
	}
	if _, err := s.parts.Journal.Last(id); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return err
	}
	return s.parts.Records.Expire(id)
}
