package job

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// isSuspended reports whether the job of ctx is left to the next process.
func isSuspended(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errSuspended) }

// work does the job, and reports whether that succeeded. It writes exactly one
// terminal event, unless the job is suspended: then the process that takes it up does.
func (j *job) work(ctx context.Context) bool {
	err := j.guarded(ctx)
	j.summary.Elapsed = time.Since(j.began)
	if err != nil && isSuspended(ctx) {
		j.suspend()
		return false
	}
	j.finish(ctx, err)
	if err := j.journal.Close(); err != nil {
		j.log.Error("close the journal", "error", err)
	}
	return err == nil
}

// beginAttempt notes that the job runs, before anything is done for it: a crash
// counts as an attempt, however early it comes.
func (j *job) beginAttempt() error {
	if err := j.carryOver(); err != nil {
		return err
	}
	n := attemptNote{Number: j.earlier.attempts + 1, At: time.Now(), Used: j.earlier.used}
	if err := j.journal.Note(note{Attempt: &n}.encode()); err != nil {
		return err
	}
	j.attempted = true
	j.service.change(j.live, func(r *record.Row) {
		r.State, r.Attempt = dreamcore.JobRunning, n.Number
		if r.Started.IsZero() {
			r.Started = n.At
		}
		r.Spent(j.summary.Cost, j.summary.Tokens)
	})
	return nil
}

// noteAcceptance shows the last check and the repairs in the record.
func (j *job) noteAcceptance() {
	j.service.change(j.live, func(r *record.Row) { r.Acceptance, r.Repairs = j.accepted, j.summary.Repairs })
}

// noteRun notes that the time limit runs, once in an attempt.
func (j *job) noteRun() error {
	if !j.ran.IsZero() {
		return nil
	}
	j.ran = time.Now()
	return j.journal.Note(note{Run: &runNote{At: j.ran}}.encode())
}

// used returns how much of the time limit all attempts have used.
func (j *job) used() time.Duration {
	if j.ran.IsZero() {
		return j.earlier.used
	}
	return j.earlier.used + time.Since(j.ran)
}

// suspend leaves the job to the next process.
func (j *job) suspend() {
	if j.attempted {
		n := cutNote{At: time.Now(), Used: j.used(), Turns: j.earlier.turns + j.output.turns, Cost: j.summary.Cost, Tokens: j.summary.Tokens}
		if err := j.journal.Note(note{Cut: &n}.encode()); err != nil {
			j.log.Error("note that a job was cut: it counts as a crash", "error", err)
		}
	}
	j.log.Info("the job is left to the next process", "elapsed", j.summary.Elapsed)
	if err := j.journal.Suspend(); err != nil {
		j.log.Error("close the journal", "error", err)
	}
}

// finish writes the end of the job. The slot is freed before the terminal event: a
// client that sends the next request as soon as it has read the last event must not
// be told that it is still busy.
func (j *job) finish(ctx context.Context, err error) {
	if !j.attempted { // it may have ended while it waited for another attempt
		if err := j.carryOver(); err != nil {
			j.log.Error("the record of the job may show too little spending", "error", err)
		}
	}
	last, code := dreamcore.DoneEvent(), dreamcore.FailureCode("")
	if err != nil {
		f := classify(ctx, err)
		last, code = dreamcore.ErrorEvent(f, j.lang), f.Code
		j.setExit(f)
		j.log.Log(ctx, levelOf(ctx, f), "generation failed", "code", f.Code, "error", err, "elapsed", j.summary.Elapsed)
		if why := context.Cause(ctx); why != nil {
			err = why // what follows from it is not the cause
		}
	} else {
		j.log.Info("generation done", "elapsed", j.summary.Elapsed, "lines", j.summary.OutputLines, "commit", j.summary.GitCommit)
	}
	if j.request.TestError == dreamcore.TestErrorNone {
		j.emit(dreamcore.DebugEvent(j.summary))
	}
	j.slot.leave()
	j.service.conclude(j.live, last, endNote{
		At: time.Now(), Code: code, Word: j.firstWord, Exit: j.summary.ExitCode, Cause: j.service.cause(err), Commit: j.summary.GitCommit,
		Cost: j.summary.Cost, Tokens: j.summary.Tokens, Acceptance: j.accepted, Repairs: j.summary.Repairs,
	})
}

func (j *job) setExit(f dreamcore.Failure) {
	switch {
	case f.HasExit:
		j.summary.ExitCode = f.ExitCode
	case j.summary.ExitCode == 0:
		j.summary.ExitCode = 1 // 0 would mean success
	}
}

// levelOf returns the level at which a failure is logged.
func levelOf(ctx context.Context, f dreamcore.Failure) slog.Level {
	switch {
	case context.Cause(ctx) != nil:
		return slog.LevelInfo // it was cancelled
	case f.Spent, f.Code == dreamcore.FailGameBroken:
		return slog.LevelWarn // a limit that the operator has set; a game of the model
	}
	return slog.LevelError
}

// end is the end of a job.
type end struct {
	last dreamcore.Event
	note endNote
}

// conclude writes the terminal event of a job, and then its row. A client
// that has read the event finds the job ended. A full log takes a note that is too long without its
// findings. If the event cannot be written, the row stays as it was, so that the job
// counts as unfinished: takeUp concludes it later.
func (s *Service) conclude(l *liveJob, last dreamcore.Event, n endNote) {
	row, err := s.writeEnd(l, last, n)
	if dreamcore.CodeOf(err) == dreamcore.CodeTooLarge {
		s.log.Warn("the log of a job has no room for its findings", "job", l.id, "cause", n.Cause)
		n = n.short()
		row, err = s.writeEnd(l, last, n)
	}
	if err != nil {
		s.log.Error("write an event", "job", l.id, "error", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unended[l.id] = end{last, n}
		return
	}
	s.ended(row)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.unended, l.id)
}

// writeEnd writes the terminal event of a job to its log, and returns the row of the
// job.
func (s *Service) writeEnd(l *liveJob, last dreamcore.Event, n endNote) (record.Row, error) {
	state, _ := dreamcore.EndState(last)
	s.mu.Lock()
	r := &l.row
	r.State, r.Ended, r.Code, r.ExitCode, r.Cause, r.Commit, r.FirstWord = state, n.At, n.Code, &n.Exit, n.Cause, n.Commit, n.Word
	r.Spent(n.Cost, n.Tokens)
	r.Acceptance, r.Repairs = n.Acceptance, n.Repairs
	r.LastEventID = l.log.LastID() + 1
	row := l.row
	s.mu.Unlock()
	_, err := l.log.End(note{End: &n}.encode(), last)
	return row, err
}

// ended reports and then notes that a job has ended. What fails stays in the index as
// unfinished or untold, and takeUp does it again.
func (s *Service) ended(row record.Row) {
	s.mu.Lock()
	again := s.reported[row.ID]
	s.reported[row.ID] = true
	s.mu.Unlock()
	if s.parts.Ended != nil && !again {
		s.parts.Ended(row.Job)
	}
	told := s.tell(row.Job)
	if told != nil && !again {
		s.log.Warn("the end of a job cannot be told yet; it is tried again", "job", row.ID, "error", told, "hint", dreamcore.HintOf(told))
	}
	row.Untold = told != nil
	noted := s.put(row)
	if noted != nil && !again {
		s.log.Error("write the record of a job", "job", row.ID, "error", noted)
	}
	if told != nil || noted != nil {
		s.retell.Store(true)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reported, row.ID)
}

// tell tells other programs that a job has ended. After an error it must be tried
// again.
func (s *Service) tell(j dreamcore.Job) error {
	if s.parts.Tell == nil {
		return nil
	}
	if err := s.parts.Tell(j); err != nil {
		return err
	}
	if err := s.parts.Journal.Told(j.ID); err != nil { // it is told twice if the index is lost, too
		s.log.Warn("note that the end of a job was told", "job", j.ID, "error", err)
	}
	return nil
}

// Retell repeats what could not be told or noted of jobs that have ended. It is cheap
// if there is nothing.
func (s *Service) Retell() error {
	if !s.retell.Swap(false) || s.parts.Records == nil {
		return nil
	}
	rows, err := s.parts.Records.Unfinished()
	if err != nil {
		s.retell.Store(true)
		return err
	}
	ids := map[string]bool{}
	for _, r := range rows {
		if r.Untold {
			ids[r.ID] = true // perhaps of an earlier process
		}
	}
	s.mu.Lock()
	for id := range s.reported {
		ids[id] = true
	}
	s.mu.Unlock()
	return s.takeUp(slices.Collect(maps.Keys(ids)))
}
