package control

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// Jobs are the jobs that a Server controls. The methods return CodeNotFound for
// unknown ids.
type Jobs interface {
	List(f dreamcore.JobFilter) (dreamcore.JobPage, error)
	Get(id string) (dreamcore.Job, error)
	// Request returns the request of a job, so that it can be submitted again.
	Request(id string) (dreamcore.GenerateRequest, dreamcore.Language, error)
	Submit(ctx context.Context, r dreamcore.GenerateRequest, lang dreamcore.Language) (id string, err error)
	Cancel(id string) error
}

// submitted is the answer to a request that begins a job.
type submitted struct {
	ID string `json:"id"`
}

// submission is a request that begins a job.
type submission struct {
	dreamcore.Request
	Language dreamcore.Language `json:"language"`
}

// maxSubmission bounds a submission, in bytes.
const maxSubmission = 4 << 20

func (s *Server) handleJobs(mux *http.ServeMux) {
	mux.HandleFunc("GET /jobs", answered(s, s.listJobs))
	mux.HandleFunc("POST /jobs", answered(s, s.submitJob))
	mux.HandleFunc("GET /jobs/{id}", answered(s, func(r *http.Request) (dreamcore.Job, error) { return s.jobs.Get(r.PathValue("id")) }))
	mux.HandleFunc("GET /jobs/{id}/events", s.jobEvents)
	mux.HandleFunc("POST /jobs/{id}/cancel", answered(s, s.cancelJob))
	mux.HandleFunc("POST /jobs/{id}/retry", answered(s, s.retryJob))
}

// answered returns a handler that responds with what call returns.
func answered[T any](s *Server, call func(r *http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := call(r)
		if err != nil {
			s.fail(w, err)
			return
		}
		s.answer(w, v)
	}
}

func (s *Server) listJobs(r *http.Request) (dreamcore.JobPage, error) {
	var f dreamcore.JobFilter
	if err := json.Unmarshal([]byte(r.URL.Query().Get("filter")), &f); err != nil {
		return dreamcore.JobPage{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the filter is not JSON", Err: err}
	}
	return s.jobs.List(f)
}

func (s *Server) cancelJob(r *http.Request) (dreamcore.Job, error) {
	id := r.PathValue("id")
	if _, err := s.jobs.Get(id); err != nil {
		return dreamcore.Job{}, err
	}
	if err := s.jobs.Cancel(id); err != nil {
		return dreamcore.Job{}, err
	}
	return s.jobs.Get(id)
}

func (s *Server) submitJob(r *http.Request) (submitted, error) {
	var in submission
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxSubmission)).Decode(&in); err != nil {
		return submitted{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the request is not JSON", Err: err}
	}
	valid, err := in.Validate()
	if err != nil {
		return submitted{}, err
	}
	return s.begin(r.Context(), valid, in.Language)
}

func (s *Server) retryJob(r *http.Request) (submitted, error) {
	request, lang, err := s.jobs.Request(r.PathValue("id"))
	if err != nil {
		return submitted{}, err
	}
	return s.begin(r.Context(), request, lang)
}

// begin submits a job that runs on without listeners: the command does not wait
// for it.
func (s *Server) begin(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (submitted, error) {
	request.Detach, request.IdempotencyKey = true, ""
	id, err := s.jobs.Submit(ctx, request, lang)
	return submitted{ID: id}, err
}

// jobEvents sends the events of a job after the one with the id "after"; with
// follow=1 until its end.
func (s *Server) jobEvents(w http.ResponseWriter, r *http.Request) {
	id, query := r.PathValue("id"), r.URL.Query()
	if _, err := s.jobs.Get(id); err != nil {
		s.fail(w, err)
		return
	}
	var after uint64
	if text := query.Get("after"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			s.fail(w, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "after is not the id of an event", Err: err})
			return
		}
		after = n
	}
	reader, err := s.journal.Reader(id, after)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer reader.Close()
	s.send(w, r, reader, query.Get("follow") != "")
}

// send sends events, one per line.
func (s *Server) send(w http.ResponseWriter, r *http.Request, reader *journal.Reader, follow bool) {
	ctx := r.Context()
	if !follow {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, snapshotLimit)
		defer cancel()
	}
	rc := http.NewResponseController(w)
	for entry, err := range reader.Follow(ctx) {
		if err != nil {
			return // the snapshot ended, the client disconnected, or the service stops
		}
		if _, err := w.Write(append(entry.Event, '\n')); err != nil {
			return
		}
		_ = rc.Flush() // the next write fails if the client has gone
	}
}

// ListJobs returns a page of the jobs that f selects, the newest first.
func (c *Client) ListJobs(ctx context.Context, f dreamcore.JobFilter) (page dreamcore.JobPage, err error) {
	filter, err := json.Marshal(f)
	if err != nil {
		return page, err
	}
	err = c.call(ctx, http.MethodGet, "/jobs?"+url.Values{"filter": {string(filter)}}.Encode(), nil, &page)
	return page, err
}

// Job returns the record of a job.
func (c *Client) Job(ctx context.Context, id string) (j dreamcore.Job, err error) {
	err = c.call(ctx, http.MethodGet, "/jobs/"+url.PathEscape(id), nil, &j)
	return j, err
}

// JobEvents calls fn with the events of a job whose ids are greater than after;
// with follow, until the end of the job.
func (c *Client) JobEvents(ctx context.Context, id string, after uint64, follow bool, fn func(dreamcore.Event) error) error {
	query := url.Values{"after": {strconv.FormatUint(after, 10)}}
	if follow {
		query.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/jobs/"+url.PathEscape(id)+"/events?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := each(resp.Body, fn); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

// CancelJob asks the service to cancel a job and returns its record, in which the
// job may not have ended yet.
func (c *Client) CancelJob(ctx context.Context, id string) (j dreamcore.Job, err error) {
	err = c.call(ctx, http.MethodPost, "/jobs/"+url.PathEscape(id)+"/cancel", nil, &j)
	return j, err
}

// RetryJob submits the request of a job again, as a new job, and returns its id.
func (c *Client) RetryJob(ctx context.Context, id string) (string, error) {
	var s submitted
	err := c.call(ctx, http.MethodPost, "/jobs/"+url.PathEscape(id)+"/retry", nil, &s)
	return s.ID, err
}

// SubmitJob begins a job that runs on without listeners, and returns its id.
func (c *Client) SubmitJob(ctx context.Context, r dreamcore.Request, lang dreamcore.Language) (string, error) {
	body, err := json.Marshal(submission{r, lang})
	if err != nil {
		return "", err
	}
	var s submitted
	err = c.call(ctx, http.MethodPost, "/jobs", body, &s)
	return s.ID, err
}
