package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// errEnded stops the reading of a stream at its terminal event.
var errEnded = errors.New("the stream has ended")

// Submission is a new job: a request, or the repetition of an earlier one.
type Submission struct {
	// Request is the body of generate_game.
	Request dreamcore.Request
	// Retry submits the request of this job again, instead of Request; the job must
	// have ended. Of Request, only Detach counts.
	Retry string
	// Key is the Idempotency-Key; "" sends none. A submission with the key of an
	// earlier one joins its job, also one that has ended. With a key, a submission
	// that got no answer is sent again.
	Key string
	// Began is called with the id of the job before its first event, unless the server
	// does not name the job. An error ends the call like one of the events' function.
	// It may be nil.
	Began func(job string) error
}

// EventFunc receives an event and its id, which is 0 if the server sends none. An
// error ends the call.
type EventFunc func(id uint64, e dreamcore.Event) error

// Generate requests a game and passes every event to fn as it arrives, including
// the terminal event. An error means that there is no outcome: no answer, a
// refusal before the stream, an interrupted stream, or an error of fn. If the
// server names the job, a broken stream is resumed (see follow). When ctx ends
// or fn fails, the job is cancelled, unless the request has Detach set.
func (c *Client) Generate(ctx context.Context, req dreamcore.Request, fn func(dreamcore.Event) error) (Outcome, error) {
	return c.Submit(ctx, Submission{Request: req}, func(_ uint64, e dreamcore.Event) error { return fn(e) })
}

// Submit is Generate for any Submission. CodeConflict: the job to repeat has not
// ended; CodeInvalid with ReasonKeyReused: the key belongs to another request.
func (c *Client) Submit(ctx context.Context, s Submission, fn EventFunc) (Outcome, error) {
	r, err := c.submission(s)
	if err != nil {
		return Outcome{}, err
	}
	f := &following{began: s.Began}
	outcome, err := c.outcomeOf(ctx, f, r, fn)
	if err != nil && f.job != "" && !s.Request.Detach && (ctx.Err() != nil || isStopped(err)) {
		c.cancelJob(ctx, f.job)
	}
	return outcome, unwrapStopped(err)
}

func (c *Client) submission(s Submission) (call, error) {
	if s.Retry == "" {
		body, err := marshal(s.Request)
		r := c.post(NameGenerateGame, body)
		r.key = s.Key
		return r, err
	}
	id, err := dreamcore.ParseJobID(s.Retry)
	if err != nil {
		return call{}, err
	}
	body, err := json.Marshal(map[string]bool{"detach": s.Request.Detach})
	r := c.post("jobs/"+id+"/retry", body)
	r.key = s.Key
	return r, err
}

// JobEvents passes the events of a job after the given id to fn as they arrive,
// including the terminal event; 0 means all. A broken stream is resumed. The job
// goes on when ctx ends or fn fails; it has lost a listener then. CodeNotFound: there
// is no such job, or with ReasonExpired, no longer.
func (c *Client) JobEvents(ctx context.Context, job string, after uint64, fn EventFunc) (Outcome, error) {
	id, err := dreamcore.ParseJobID(job)
	if err != nil {
		return Outcome{}, err
	}
	f := &following{job: id, last: after, known: true}
	outcome, err := c.outcomeOf(ctx, f, c.eventsAfter(f), fn)
	if f.ended != nil {
		return Outcome{Done: f.ended.State == dreamcore.JobSucceeded, Code: f.ended.Code}, nil
	}
	return outcome, unwrapStopped(err)
}

// outcomeOf follows a job to its terminal event.
func (c *Client) outcomeOf(ctx context.Context, f *following, r call, fn EventFunc) (outcome Outcome, err error) {
	err = c.follow(ctx, f, r, func(e dreamcore.Event) error {
		if err := fn(f.last, e); err != nil {
			return &stopped{err}
		}
		if !terminal(e) {
			return nil
		}
		outcome = c.outcome(e)
		return errEnded
	})
	if errors.Is(err, errEnded) {
		return outcome, nil
	}
	return Outcome{}, err
}

// stopped wraps an error of the caller's function.
type stopped struct{ err error }

func (s *stopped) Error() string { return s.err.Error() }
func (s *stopped) Unwrap() error { return s.err }

func isStopped(err error) bool {
	_, ok := errors.AsType[*stopped](err)
	return ok
}

func unwrapStopped(err error) error {
	if own, ok := errors.AsType[*stopped](err); ok {
		return own.err
	}
	return err
}

// eventsAfter returns the request for the events that f has not received.
func (c *Client) eventsAfter(f *following) call {
	r := call{name: "jobs/" + f.job + "/events", method: http.MethodGet, secret: c.secret()}
	if f.last > 0 {
		r.after = strconv.FormatUint(f.last, 10)
	}
	return r
}
