package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	eventsType = "text/event-stream"
	jsonType   = "application/json"
)

// content is the format of an answer with status 200. It is detected from the
// bytes: the CLI ignores the Content-Type too, and proxies send wrong ones.
type content int

const (
	contentUnknown content = iota // not enough bytes so far
	contentEvents
	contentJSON
	contentPage // HTML or XML: a login page, a block page
	contentOther
)

func (c content) String() string {
	return [...]string{"an empty answer", "events", "JSON", "a page of HTML", "neither events nor a JSON object"}[c]
}

// contentOf detects the format from the first bytes of a body.
func contentOf(b []byte) content {
	if bytes.HasPrefix([]byte(byteOrderMark), b) {
		return contentUnknown
	}
	b = bytes.TrimLeft(bytes.TrimPrefix(b, []byte(byteOrderMark)), " \t\r\n")
	if len(b) == 0 {
		return contentUnknown
	}
	switch b[0] {
	case '{':
		return contentJSON
	case '<':
		return contentPage
	case ':':
		return contentEvents
	}
	for _, field := range []string{"data", "event", "id", "retry"} {
		if bytes.HasPrefix([]byte(field), b) {
			return contentUnknown
		}
		if bytes.HasPrefix(b, []byte(field+":")) {
			return contentEvents
		}
	}
	return contentOther
}

// intake reads an answer within the limits of silence and of size.
type intake struct {
	x     *exchange
	body  io.Reader
	idle  *time.Timer
	buf   []byte
	until time.Time // deadline of the whole answer; zero if unset

	first []byte // read by open and not yet returned by next
	err   error  // how the body ended
}

func (x *exchange) intake(body io.Reader) *intake {
	idle := time.AfterFunc(x.gw.cfg.IdleLimit, func() { x.cancel(errStalled) })
	return &intake{x: x, body: body, idle: idle, buf: make([]byte, relayStep)}
}

// next returns the next piece, which is valid until the next call, or the error
// that ended the body: io.EOF, errStalled or a read error. The idle limit applies
// only while waiting for the upstream, not while the sandbox reads.
func (in *intake) next() ([]byte, error) {
	if p := in.first; len(p) > 0 {
		in.first = nil
		return p, nil
	}
	if in.err != nil {
		return nil, in.err
	}
	limit := in.x.gw.cfg.IdleLimit
	if !in.until.IsZero() {
		if limit = min(limit, time.Until(in.until)); limit <= 0 {
			in.err = errStalled
			return nil, in.err
		}
	}
	for {
		in.idle.Reset(limit)
		n, err := in.body.Read(in.buf)
		in.idle.Stop()
		if err != nil && err != io.EOF && errors.Is(context.Cause(in.x.ctx), errStalled) {
			err = errStalled
		}
		if in.err = err; n > 0 {
			return in.buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// open reads until the format of the answer is known: the first event of a
// stream, or as much JSON as an error may have. next returns these pieces again.
func (in *intake) open(declared string) (kind content, first *meter) {
	first = &meter{}
	var held []byte
	for {
		p, err := in.next()
		held = append(held, p...)
		if kind == contentUnknown {
			if kind = contentOf(held); kind == contentOther && declared == eventsType {
				kind = contentEvents // a stream may contain unknown fields
			}
			p = held
		}
		if kind == contentEvents {
			first.feed(p)
		}
		if err == io.EOF && kind == contentEvents {
			first.finish()
		}
		if err != nil || len(held) >= maxErrorBody || kind == contentPage || kind == contentOther || first.events > 0 {
			in.first = held
			return kind, first
		}
	}
}

// headerDelay is how long the header of a stream is delayed for its first event:
// if that is an error, the answer can still have the error's status.
const headerDelay = time.Second

// delayHeader sends the header of a stream that stays silent for headerDelay:
// the CLI limits its wait for the header. The caller must call stop before it
// writes anything.
func (x *exchange) delayHeader(h http.Header) (stop func()) {
	var mu sync.Mutex
	stopped := false
	timer := time.AfterFunc(headerDelay, func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped || !x.ready() {
			return
		}
		x.begin(h, eventsType)
		_ = x.rc.Flush()
	})
	return func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		stopped = true
	}
}

// begin sends the header of a successful answer, once.
func (x *exchange) begin(h http.Header, media string) {
	if x.begun {
		return
	}
	x.begun = true
	answerHeader(x.w.Header(), h)
	if mediaType(h) != media {
		x.w.Header().Set("Content-Type", media)
	}
	x.w.WriteHeader(http.StatusOK)
}
