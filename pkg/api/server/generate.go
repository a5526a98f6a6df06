package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// JobHeader names the job in every answer that streams its events.
const JobHeader = "X-Job-Id"

// generateGame starts a generation and streams its events. The client is the
// job's first listener; see presence for when it has gone.
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
		// A job that we cannot find is our fault, whatever the code says.
		x.fail(&dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the events of the new job cannot be read", Err: err})
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
		x.err = fmt.Errorf("read the events of the job to their end: %w", f.err)
		x.lastWords(dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailUnknown}, lang))
	}
}

var errNoEnd = errors.New("the log of the job has no terminal event")

// tail is the source of a job's events. It ends with the terminal event, and
// does not wait for the job to be put away.
func tail(reader *journal.Reader) source {
	return func(ctx context.Context, send func(message) error) error {
		for {
			entry, err := reader.Next(ctx)
			if errors.Is(err, io.EOF) {
				return errNoEnd
			}
			if err != nil {
				return err
			}
			if err := send(message{entry.ID, entry.Event}); err != nil {
				return err
			}
			if isTerminal(entry.Event) {
				return nil
			}
		}
	}
}

// isTerminal tells whether e ends a stream. The search spares nearly every
// event the JSON parser; our own events are never escaped.
func isTerminal(e dreamcore.Event) bool {
	if !bytes.Contains(e, []byte(`"done"`)) && !bytes.Contains(e, []byte(`"error"`)) {
		return false
	}
	t := dreamcore.EventType(e)
	return t == "done" || t == "error"
}
