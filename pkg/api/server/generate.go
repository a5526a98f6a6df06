package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// JobHeader carries the job's id in every response that streams its events.
const JobHeader = "X-Job-Id"

// KeyHeader makes a repetition of a request join the job of the first one.
const KeyHeader = "Idempotency-Key"

// codeKeyReused is an error code used only in HTTP responses, for an idempotency
// key that belongs to another request.
const codeKeyReused dreamcore.Code = "IDEMPOTENCY_KEY_REUSED"

// generateGame starts a generation and streams its events.
func (s *Server) generateGame(x *exchange, r *http.Request) {
	body, ok := x.readBody(r)
	if !ok {
		return
	}
	request, err := decodeRequest(body)
	if err != nil {
		x.fail(err)
		return
	}
	valid, err := request.Validate()
	if err != nil {
		x.fail(err)
		return
	}
	s.generate(x, r, valid, s.language(r))
}

// generate submits a request and streams the events of its job. The client is the
// job's first listener for as long as presence holds.
func (s *Server) generate(x *exchange, r *http.Request, request dreamcore.GenerateRequest, lang dreamcore.Language) {
	var err error
	if request.IdempotencyKey, err = idempotencyKey(r.Header); err != nil {
		x.fail(err)
		return
	}
	request.RequestID = clientRequestID(r.Header)
	job, err := s.cfg.Generator.Submit(presence(r), request, lang)
	if err != nil {
		x.fail(fmt.Errorf("start a generation: %w", submitError(s.stopping(err))))
		return
	}
	x.log = x.log.With("job", job)
	x.about(request.User, request.Project)
	reader, err := s.cfg.Journal.Reader(job, 0)
	switch {
	case err != nil && request.IdempotencyKey != "" && dreamcore.CodeOf(err) == dreamcore.CodeNotFound:
		x.fail(errExpired(err)) // the job of an earlier request
		return
	case err != nil:
		// A missing log of the new job is an internal error, regardless of its code.
		x.fail(&dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot read the events of the new job", Err: err})
		return
	}
	defer x.closeReader(reader)
	x.Header().Set(JobHeader, job)
	s.follow(x, r, tail(reader), lang)
}

// submitError returns the API's error for a request that was not accepted.
func submitError(err error) error {
	if dreamcore.ReasonOf(err) != job.ReasonKeyReused {
		return err
	}
	return &dreamcore.Error{
		Code: codeKeyReused, Message: KeyHeader + " was used for another request", Err: err,
		Hint: "use a new key for each request, and the same one only to repeat it",
	}
}

// idempotencyKey returns the key of a request, or "" if it has none. Any printable
// ASCII text is a key, also the quoted strings of the draft standard, quotes
// included.
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values(KeyHeader)
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	printable := !strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	if len(values) > 1 || key == "" || len(key) > dreamcore.MaxIdempotencyKey || !printable {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("Invalid %s: must be one value of 1 to %d printable characters", KeyHeader, dreamcore.MaxIdempotencyKey),
			Hint: "use a new UUID for each request",
		}
	}
	return key, nil
}

// follow streams the events of a job to its terminal event.
func (s *Server) follow(x *exchange, r *http.Request, from source, lang dreamcore.Language) {
	f := startFeed(r.Context(), from)
	defer f.stop() // before the reader is closed
	err := x.beginStream()
	if err == nil {
		err = x.forward(r.Context(), f)
	}
	switch {
	case errors.Is(err, errLinkExpired):
		if _, err := x.Write([]byte(expiredComment)); err == nil {
			_ = x.FlushError() // an error means that the client is gone
		}
	case err != nil:
		x.cut = err
	case errors.Is(f.err, journal.ErrSuspended):
		x.cut = f.err // the client comes back to the next process
	case f.err != nil:
		x.err = fmt.Errorf("stream the events of the job: %w", f.err)
		x.endWithError(dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailUnknown}, lang))
	}
}

// tail is the source of a job's events. It ends with the terminal event, without
// waiting for the job to close its log.
func tail(reader *journal.Reader) source {
	return func(ctx context.Context, send func(message) error) error {
		for entry, err := range reader.Follow(ctx) {
			if err != nil {
				return err
			}
			if err := send(message{entry.ID, entry.Event}); err != nil || entry.Terminal() {
				return err
			}
		}
		return nil
	}
}
