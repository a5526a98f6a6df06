package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// jobStatus is what the endpoints below /jobs answer.
type jobStatus struct {
	ID    string             `json:"id"`
	State dreamcore.JobState `json:"state"`
	// CancelRequested is true until a job that was cancelled has ended.
	CancelRequested bool `json:"cancel_requested,omitempty"`
}

// getJob answers with the state of a job.
func (s *Server) getJob(x *exchange, r *http.Request) {
	if id, ok := x.jobID(r); ok {
		s.answerJob(x, id)
	}
}

// cancelJob cancels a job and answers with its state, which is the final one if
// the job has ended before.
func (s *Server) cancelJob(x *exchange, r *http.Request) {
	id, ok := x.jobID(r)
	if !ok || !x.skipBody(r) {
		return
	}
	s.cfg.Generator.Cancel(id)
	s.answerJob(x, id)
}

func (s *Server) answerJob(x *exchange, id string) {
	job, err := s.findJob(id)
	if err != nil {
		x.fail(err)
		return
	}
	x.answer(http.StatusOK, job)
}

// findJob returns the status of a job. A terminal event in the journal counts
// before what the service says: a client that has read it knows that the job
// has ended.
func (s *Server) findJob(id string) (jobStatus, error) {
	state, cancelled, live := s.cfg.Generator.State(id)
	last, err := s.cfg.Journal.Last(id)
	if err != nil {
		return jobStatus{}, jobNotFound(err)
	}
	if end, ok := dreamcore.EndState(last); ok {
		return jobStatus{ID: id, State: end}, nil
	}
	if live {
		return jobStatus{ID: id, State: state, CancelRequested: cancelled}, nil
	}
	return jobStatus{ID: id, State: dreamcore.JobFailed}, nil // its journal could not be written to the end
}

// jobEvents streams the events of a job from the first one, or after the one
// that the client has seen last. A client that follows a job is one of its
// listeners.
func (s *Server) jobEvents(x *exchange, r *http.Request) {
	id, ok := x.jobID(r)
	if !ok || !x.skipBody(r) { // the end of the client is seen after the body only
		return
	}
	after, err := lastEventID(r)
	if err != nil {
		x.fail(err)
		return
	}
	x.log = x.log.With("job", id)
	s.cfg.Generator.Attach(presence(r), id)
	reader, err := s.cfg.Journal.Reader(id, after)
	if err != nil {
		x.fail(jobNotFound(err))
		return
	}
	defer x.closeReader(reader)
	x.Header().Set(JobHeader, id)
	from := tail(reader)
	if after > 0 {
		from = s.remaining(from, id)
	}
	s.follow(x, r, from, s.language(r))
}

// remaining is tail for a client that may have seen the last event already:
// then nothing comes, which is no fault of the log.
func (s *Server) remaining(from source, job string) source {
	return func(ctx context.Context, send func(message) error) error {
		err := from(ctx, send)
		if !errors.Is(err, errNoEnd) {
			return err
		}
		if last, lastErr := s.cfg.Journal.Last(job); lastErr != nil || !isTerminal(last) {
			return errors.Join(err, lastErr)
		}
		return nil
	}
}

// lastEventID returns the id of the event that the client has seen last. The
// header is newer than the address: browsers add it when they connect again.
func lastEventID(r *http.Request) (uint64, error) {
	name, value := "Last-Event-ID", r.Header.Get("Last-Event-ID")
	if value == "" {
		name, value = "after", r.URL.Query().Get("after")
	}
	if value == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "Invalid " + name + ": must be the id of an event, a whole number",
			Hint: "send the id of the last event that you have, or leave it out for all events",
		}
	}
	return id, nil
}

// jobID returns the job that the path names, or answers and returns false.
func (x *exchange) jobID(r *http.Request) (string, bool) {
	id, err := dreamcore.ParseJobID(r.PathValue("id"))
	if err != nil {
		x.refuse(r, err)
	}
	return id, err == nil
}

// jobNotFound words the error for a job without a log.
func jobNotFound(err error) error {
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: "Job not found", Err: err,
		Hint: "generate_game names its job in the header " + JobHeader + "; logs are kept for journal_days",
	}
}

// presence returns a context for as long as the client of r is there: until it
// closes the connection or has its answer. That the service stops and cuts its
// connections is no sign of that.
func presence(r *http.Request) context.Context {
	here, leave := context.WithCancel(context.WithoutCancel(r.Context()))
	context.AfterFunc(r.Context(), func() {
		if context.Cause(r.Context()) == context.Canceled {
			leave()
		}
	})
	return here
}

// language returns the language for sentences to the player behind r.
func (s *Server) language(r *http.Request) dreamcore.Language {
	return preferredLanguage(strings.Join(r.Header.Values("Accept-Language"), ","), s.cfg.DefaultLanguage)
}

func (x *exchange) closeReader(reader *journal.Reader) {
	if err := reader.Close(); err != nil {
		x.log.Warn("close the log of a job", "error", err)
	}
}
