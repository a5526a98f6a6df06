package server

import (
	"context"
	"fmt"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// JobHeader carries the job's id in every response that streams its events.
const JobHeader = "X-Job-Id"

// generateGame starts a generation and streams its events. The client is the
// job's first listener for as long as presence holds.
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
	lang := s.language(r)
	job, err := s.cfg.Generator.Submit(presence(r), valid, lang)
	if err != nil {
		x.fail(fmt.Errorf("start a generation: %w", err))
		return
	}
	x.log = x.log.With("job", job, "user", string(valid.User), "project", string(valid.Project))
	reader, err := s.cfg.Journal.Reader(job, 0)
	if err != nil {
		// A missing log of the new job is an internal error, regardless of its code.
		x.fail(&dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot read the events of the new job", Err: err})
		return
	}
	defer x.closeReader(reader)
	x.Header().Set(JobHeader, job)
	s.follow(x, r, tail(reader), lang)
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
	case err != nil:
		x.cut = err
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
