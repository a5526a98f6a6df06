package server

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// Jobs shows jobs, also those that have ended; *job.Service implements it.
type Jobs interface {
	// Get returns the record of a job. The error is CodeNotFound for an unknown job,
	// with record.ReasonExpired for one that was removed because of its age.
	Get(job string) (dreamcore.Job, error)
	// List returns a page of records, the newest first. The error is CodeInvalid if
	// the cursor is not one.
	List(dreamcore.JobFilter) (dreamcore.JobPage, error)
	// Request returns the request of a job, so that it can be submitted again. The
	// errors are those of Get, and CodeConflict if the request was not kept, with
	// job.ReasonNotEnded if the job has not ended.
	Request(job string) (dreamcore.GenerateRequest, dreamcore.Language, error)
}

// listJobs returns a page of the records of jobs.
func (s *Server) listJobs(x *exchange, r *http.Request) {
	filter, err := jobFilter(r.URL.RawQuery)
	if err != nil {
		x.fail(err)
		return
	}
	page, err := s.cfg.Jobs.List(filter)
	if err != nil {
		x.fail(err)
		return
	}
	x.answer(http.StatusOK, page)
}

// jobFilter parses the query of a list of jobs. Unknown parameters are errors: a
// misspelled one would select all jobs.
func jobFilter(query string) (f dreamcore.JobFilter, err error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return f, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query", Err: err}
	}
	parsers := map[string]func(string) error{
		"user_id":    func(v string) (err error) { f.User, err = dreamcore.ParseUserID(v); return err },
		"project_id": func(v string) (err error) { f.Project, err = dreamcore.ParseProjectID(v); return err },
		"state":      func(v string) (err error) { f.State, err = dreamcore.ParseJobState(v); return err },
		"since":      func(v string) (err error) { f.Since, err = parseTime("since", v); return err },
		"until":      func(v string) (err error) { f.Until, err = parseTime("until", v); return err },
		"limit":      func(v string) (err error) { f.Limit, err = parseLimit(v); return err },
		"cursor":     func(v string) (err error) { f.Cursor = v; _, err = record.ParseCursor(v); return err },
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		parse, ok := parsers[name]
		if !ok {
			return f, &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: "Unknown parameter: " + clip(name),
				Hint: "use user_id, project_id, state, since, until, limit and cursor",
			}
		}
		value, err := parameter(q, name)
		if err == nil {
			err = parse(value)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// parseTime parses a time with a zone, or a date in UTC.
func parseTime(name, value string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, value); err == nil {
			return t, nil
		}
	}
	return time.Time{}, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "Invalid " + name + ": must be a time",
		Hint: "use a time like 2026-11-01T12:00:00Z, or a date like 2026-11-01; escape + as %2B",
	}
}

// parseLimit parses the size of a page.
func parseLimit(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > dreamcore.MaxPage {
		return 0, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "Invalid limit: must be a number from 1 to " + strconv.Itoa(dreamcore.MaxPage),
			Hint: "leave it out for " + strconv.Itoa(dreamcore.DefaultPage),
		}
	}
	return n, nil
}

// getJob returns the record of a job.
func (s *Server) getJob(x *exchange, r *http.Request) {
	if id, ok := x.jobID(r); ok {
		s.answerJob(x, id)
	}
}

// cancelJob cancels a job and returns its record, which is the final one if the
// job had already ended.
func (s *Server) cancelJob(x *exchange, r *http.Request) {
	id, ok := x.jobID(r)
	if !ok || !x.skipBody(r) {
		return
	}
	if err := s.cfg.Generator.Cancel(id); err != nil {
		x.fail(err)
		return
	}
	s.answerJob(x, id)
}

func (s *Server) answerJob(x *exchange, id string) {
	job, err := s.cfg.Jobs.Get(id)
	if err != nil {
		x.fail(jobError(err))
		return
	}
	x.answer(http.StatusOK, job)
}

// retryJob submits the request of a job that has ended once more, as a new job
// whose events it streams. The body may override detach.
func (s *Server) retryJob(x *exchange, r *http.Request) {
	id, ok := x.jobID(r)
	if !ok {
		return
	}
	fields, ok := x.readMembers(r, "detach")
	if !ok {
		return
	}
	request, lang, err := s.earlierRequest(id, fields["detach"])
	if err != nil {
		x.fail(jobError(err))
		return
	}
	s.generate(x, r, request, lang)
}

// earlierRequest returns the request of a job that has ended.
func (s *Server) earlierRequest(id string, detach json.RawMessage) (request dreamcore.GenerateRequest, lang dreamcore.Language, err error) {
	request, lang, err = s.cfg.Jobs.Request(id)
	if dreamcore.ReasonOf(err) == job.ReasonNotEnded {
		err = &dreamcore.Error{
			Code: dreamcore.CodeConflict, Message: "Job has not ended", Hint: "follow it with GET /jobs/ID/events, or cancel it first", Err: err,
		}
	}
	if err != nil {
		return request, "", err
	}
	if detach != nil {
		request.Detach, err = flag("detach", detach)
	}
	return request, lang, err
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
	if x.linked {
		leave, ok := s.enterLink(x, r, id, after)
		if !ok {
			return
		}
		defer leave()
	}
	s.cfg.Generator.Attach(presence(r), id)
	reader, err := s.openEvents(id, after)
	if err != nil {
		x.fail(err)
		return
	}
	defer x.closeReader(reader)
	x.Header().Set(JobHeader, id)
	if x.linked {
		limited, done := x.untilExpiry(r)
		defer done()
		r = limited
	}
	s.follow(x, r, tail(reader), s.language(r))
}

// enterLink checks the request of a browser that has a link. If ok is false, the
// request was answered; otherwise the caller must call leave.
func (s *Server) enterLink(x *exchange, r *http.Request, id string, after uint64) (leave func(), ok bool) {
	if err := s.checkOrigin(r); err != nil {
		x.fail(err)
		return nil, false
	}
	job, err := s.cfg.Jobs.Get(id)
	if err == nil && after > 0 && job.Final() && job.LastEventID <= after {
		// An EventSource comes back after every stream, until it gets this status.
		x.Header().Set(JobHeader, id)
		x.WriteHeader(http.StatusNoContent)
		return nil, false
	}
	if leave, ok = s.linked.enter(id); !ok {
		x.fail(&dreamcore.Error{Code: dreamcore.CodeBusy, Message: "Too many readers of this job", Hint: "close other pages that follow it"})
	}
	return leave, ok
}

// openEvents returns a reader of the events of a job. The error for a job whose log
// was removed is errExpired.
func (s *Server) openEvents(id string, after uint64) (*journal.Reader, error) {
	reader, err := s.cfg.Journal.Reader(id, after)
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return reader, err
	}
	// The row is removed after the log.
	if _, known := s.cfg.Jobs.Get(id); known == nil {
		return nil, errExpired(err)
	} else if dreamcore.CodeOf(known) != dreamcore.CodeNotFound || dreamcore.ReasonOf(known) == record.ReasonExpired {
		err = known
	}
	return nil, jobError(err)
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
		return "", false
	}
	x.log = x.log.With("job", id)
	return id, true
}

// codeExpired is an error code used only in HTTP responses, for a job that was
// removed because of its age.
const codeExpired dreamcore.Code = "EXPIRED"

// jobError returns the API's error for a job that does not exist, or no longer.
func jobError(err error) error {
	switch {
	case dreamcore.CodeOf(err) != dreamcore.CodeNotFound:
		return err
	case dreamcore.ReasonOf(err) == record.ReasonExpired:
		return errExpired(err)
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: "Job not found", Err: err,
		Hint: "generate_game returns the job id in the header " + JobHeader,
	}
}

func errExpired(cause error) error {
	return &dreamcore.Error{
		Code: codeExpired, Message: "Job expired", Err: cause,
		Hint: "its events were removed; they are kept for journal_days and within jobs_mib",
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
	return PreferredLanguage(r.Header, s.cfg.DefaultLanguage)
}

func (x *exchange) closeReader(reader *journal.Reader) {
	if err := reader.Close(); err != nil {
		x.log.Warn("close the log of a job", "error", err)
	}
}
