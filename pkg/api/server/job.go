package server

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// jobStatus is the response of the endpoints below /jobs.
type jobStatus struct {
	ID    string             `json:"id"`
	State dreamcore.JobState `json:"state"`
	// CancelRequested is set while a cancelled job has not ended yet.
	CancelRequested bool `json:"cancel_requested,omitempty"`
}

// getJob returns the state of a job.
func (s *Server) getJob(x *exchange, r *http.Request) {
	if id, ok := x.jobID(r); ok {
		s.answerJob(x, id)
	}
}

// cancelJob cancels a job and returns its state, which is the final state if the
// job had already ended.
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

// findJob returns the status of a job. A terminal event in the journal takes
// precedence over the generator's state, because a client that has read the event
// knows that the job has ended.
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
	return jobStatus{ID: id, State: dreamcore.JobFailed}, nil // its journal is incomplete
}

// jobEvents streams the events of a job from the first one, or after the one that
// the client has seen last. Following a job makes the client one of its
// listeners.
func (s *Server) jobEvents(x *exchange, r *http.Request) {
	id, ok := x.jobID(r)
	if !ok || !x.skipBody(r) { // a disconnect is detected only after the body
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
	s.follow(x, r, tail(reader), s.language(r))
}

// lastEventID returns the id of the last event that the client has seen. The
// header takes precedence over the query, because browsers add it on reconnecting.
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

// jobID returns the job id in the path, or responds with an error and returns
// false.
func (x *exchange) jobID(r *http.Request) (string, bool) {
	id, err := dreamcore.ParseJobID(r.PathValue("id"))
	if err != nil {
		x.refuse(r, err)
	}
	return id, err == nil
}

// jobNotFound returns the API's error for a job without a log.
func jobNotFound(err error) error {
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return err
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: "Job not found", Err: err,
		Hint: "generate_game returns the job id in the header " + JobHeader + "; logs are kept for journal_days",
	}
}

// presence returns a context that is done when the client of r closes the
// connection or has received its response. It is not done when the stopping
// service cuts the connection.
func presence(r *http.Request) context.Context {
	here, leave := context.WithCancel(context.WithoutCancel(r.Context()))
	context.AfterFunc(r.Context(), func() {
		if context.Cause(r.Context()) == context.Canceled {
			leave()
		}
	})
	return here
}

// language returns the language for messages to the player behind r.
func (s *Server) language(r *http.Request) dreamcore.Language {
	return preferredLanguage(strings.Join(r.Header.Values("Accept-Language"), ","), s.cfg.DefaultLanguage)
}

func (x *exchange) closeReader(reader *journal.Reader) {
	if err := reader.Close(); err != nil {
		x.log.Warn("close the log of a job", "error", err)
	}
}
