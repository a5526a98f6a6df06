package job

import (
	"cmp"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// Reasons of errors.
const (
	ReasonKeyReused dreamcore.Reason = "job.key_reused" // the idempotency key belongs to another request
	ReasonStopping  dreamcore.Reason = "job.stopping"   // the service is stopping
	ReasonNotEnded  dreamcore.Reason = "job.not_ended"  // the job runs, or waits
)

// record returns the record as it is now. It must be called with Service.mu held.
func (l *liveJob) record() dreamcore.Job {
	j := l.row.Job
	if j.Final() {
		return j
	}
	j.CancelRequested, j.LastEventID = l.cancelled, l.log.LastID()
	if place, admitted := l.slot.place(); admitted {
		j.State = dreamcore.JobRunning
	} else {
		j.Position = place
	}
	return j
}

// created is set before the job is started, and does not change.
func (l *liveJob) created() time.Time { return l.row.Created }

// put writes a row to the index.
func (s *Service) put(row record.Row) error {
	if s.parts.Records == nil {
		return nil
	}
	return s.parts.Records.Put(row)
}

// change changes the row of a job that runs.
func (s *Service) change(l *liveJob, fn func(*record.Row)) {
	s.mu.Lock()
	fn(&l.row)
	row := l.row
	s.mu.Unlock()
	if err := s.put(row); err != nil {
		s.log.Error("write the record of a job", "job", l.id, "error", err)
	}
}

// Get returns the record of a job. CodeNotFound: there is no such job; with
// record.ReasonExpired, there was one, and it has been removed with its log.
func (s *Service) Get(id string) (dreamcore.Job, error) {
	s.endRemnant(id)
	s.mu.Lock()
	if l := s.jobs[id]; l != nil {
		defer s.mu.Unlock()
		return l.record(), nil
	}
	s.mu.Unlock()
	var err error
	if s.parts.Records != nil {
		var row record.Row
		if row, err = s.parts.Records.Get(id); err == nil || dreamcore.CodeOf(err) != dreamcore.CodeNotFound || dreamcore.ReasonOf(err) == record.ReasonExpired {
			return row.Job, err
		}
	}
	// The index may not have the row yet.
	p, readErr := s.read(id, time.Time{})
	if readErr != nil {
		return dreamcore.Job{}, cmp.Or(err, readErr)
	}
	return p.row.Job, nil
}

// List returns a page of the records that f selects, the newest first. Records
// that are added while a client pages do not move the pages after it.
// CodeInvalid: the cursor is not one.
func (s *Service) List(f dreamcore.JobFilter) (dreamcore.JobPage, error) {
	if f.Limit <= 0 {
		f.Limit = dreamcore.DefaultPage
	}
	f.Limit = min(f.Limit, dreamcore.MaxPage)
	jobs, live, err := s.listLive(f)
	if err != nil {
		return dreamcore.JobPage{}, err
	}
	more := false
	if s.parts.Records != nil {
		var rows []record.Row
		if rows, more, err = s.parts.Records.List(f, func(r record.Row) bool { return live[r.ID] || !s.lists(r.User) }); err != nil {
			return dreamcore.JobPage{}, err
		}
		for _, r := range rows {
			jobs = append(jobs, r.Job)
		}
	}
	slices.SortFunc(jobs, func(a, b dreamcore.Job) int {
		if record.PositionOf(a).Before(record.PositionOf(b)) {
			return 1
		}
		return -1
	})
	if len(jobs) > f.Limit {
		jobs, more = jobs[:f.Limit], true
	}
	page := dreamcore.JobPage{Jobs: jobs}
	if page.Jobs == nil {
		page.Jobs = []dreamcore.Job{}
	}
	if more && len(jobs) > 0 {
		page.Next = record.PositionOf(jobs[len(jobs)-1]).Cursor()
	}
	return page, nil
}

// listLive returns the records that f selects of the jobs of this process, whose
// rows in the index may be behind, and the ids of all of these jobs.
func (s *Service) listLive(f dreamcore.JobFilter) (jobs []dreamcore.Job, live map[string]bool, err error) {
	var before record.Position
	if f.Cursor != "" {
		if before, err = record.ParseCursor(f.Cursor); err != nil {
			return nil, nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	live = make(map[string]bool, len(s.jobs))
	for id, l := range s.jobs {
		live[id] = true
		j := l.record()
		if selects(f, j) && (f.Cursor == "" || record.PositionOf(j).Before(before)) {
			jobs = append(jobs, j)
		}
	}
	return jobs, live, nil
}

// selects reports whether f selects a record, regardless of its cursor.
func selects(f dreamcore.JobFilter, j dreamcore.Job) bool {
	return (f.User == "" || f.User == j.User) && (f.Project == "" || f.Project == j.Project) && (f.State == "" || f.State == j.State) &&
		(f.Since.IsZero() || !j.Created.Before(f.Since)) && (f.Until.IsZero() || j.Created.Before(f.Until))
}

// Request returns the request of a job that has ended, with the whole prompt and
// without the idempotency key, so that it can be submitted again. The errors are those
// of Get; CodeConflict: an earlier version of this program has made the job, and did
// not keep the request, or with ReasonNotEnded, a second job would pay twice for the
// same.
func (s *Service) Request(id string) (dreamcore.GenerateRequest, dreamcore.Language, error) {
	s.endRemnant(id)
	p, err := s.read(id, time.Time{})
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		_, err = s.Get(id) // it may have expired
	}
	switch {
	case err != nil:
	case p != nil && !p.ended:
		err = &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: ReasonNotEnded, Message: "Job has not ended", Hint: "follow it, or cancel it first"}
	case p == nil || !p.known:
		err = &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the request of this job was not kept", Hint: "send the request again"}
	}
	if err != nil {
		return dreamcore.GenerateRequest{}, "", err
	}
	return p.request, p.row.Language, nil
}
