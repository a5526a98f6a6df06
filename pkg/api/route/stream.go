package route

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	// streamSilence is three times the pause after which a cell sends a comment.
	streamSilence = 45 * time.Second
	// maxPartial bounds the part of an event that is kept until the rest has come.
	// Larger events are passed on in parts.
	maxPartial = 1 << 20
	firstRoom  = 1 << 8
)

var errSilent = errors.New("the cell sends nothing")

// stream is the body of a stream of events. Only whole events are passed on. If the
// cell is lost in between, the last one is an error of the router.
type stream struct {
	body    io.ReadCloser
	cancel  context.CancelCauseFunc
	lost    func(error) []byte // returns the last event
	silence *time.Timer
	unlink  func() bool
	done    func()

	buf   []byte // what has come and was not passed on
	whole int    // bytes of buf that are whole events
	inner bool   // the last bytes that were passed on are a part of an event
	err   error  // of body
}

// newStream returns the stream in an answer. ctx is that of the request to the cell.
func (rt *Router) newStream(x *exchange, resp *http.Response, ctx context.Context, cancel context.CancelCauseFunc) io.ReadCloser {
	rt.metrics.streams.Inc()
	s := &stream{body: resp.Body, cancel: cancel, done: rt.metrics.streams.Dec}
	s.silence = time.AfterFunc(streamSilence, func() { cancel(errSilent) })
	s.unlink = context.AfterFunc(rt.stopping, func() { cancel(context.Cause(rt.stopping)) })
	s.lost = func(err error) []byte {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		if x.r.Context().Err() == nil {
			rt.metrics.cut.Inc()
			rt.log.Warn("a stream was cut", "cell", x.cell, "error", err)
		}
		event := dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailCellLost}, rt.language(x.r))
		return append(append([]byte("data: "), event...), "\n\n"...)
	}
	return s
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for s.whole == 0 && s.err == nil {
		s.fill()
	}
	if s.whole == 0 {
		return 0, s.err
	}
	n := copy(p, s.buf[:s.whole])
	s.whole -= n
	if s.buf = s.buf[n:]; len(s.buf) == 0 {
		s.buf = nil // nothing is kept between events
	}
	return n, nil
}

var endOfEvent = []byte("\n\n")

// fill reads on and finds the end of the last whole event.
func (s *stream) fill() {
	if cap(s.buf)-len(s.buf) < firstRoom {
		grown := make([]byte, len(s.buf), max(2*cap(s.buf), len(s.buf)+2*firstRoom))
		copy(grown, s.buf)
		s.buf = grown
	}
	from := max(0, len(s.buf)-1) // the end may begin in what has come before
	n, err := s.body.Read(s.buf[len(s.buf):cap(s.buf)])
	s.buf = s.buf[:len(s.buf)+n]
	s.silence.Reset(streamSilence)
	switch at := bytes.LastIndex(s.buf[from:], endOfEvent); {
	case at >= 0:
		s.whole, s.inner = from+at+len(endOfEvent), false
	case len(s.buf) > 0 && s.inner || len(s.buf) > maxPartial:
		s.whole, s.inner = len(s.buf), true
		if s.buf[s.whole-1] == '\n' && err == nil {
			s.whole-- // perhaps the first half of the end
		}
	}
	switch {
	case err == nil:
	case err == io.EOF: // the cell has ended the stream itself
		s.whole, s.err = len(s.buf), io.EOF
	case s.inner:
		s.err = err // the client sees that the event is not whole
	default:
		s.buf = append(s.buf[:s.whole], s.lost(err)...)
		s.whole, s.err = len(s.buf), io.EOF
	}
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.silence.Stop()
	s.unlink()
	s.cancel(nil)
	s.done()
	return s.body.Close()
}
