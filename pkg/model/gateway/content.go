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

// content is what a good answer is. Its bytes decide, since the CLI does not
// look at the Content-Type either, and proxies send odd ones.
type content int

const (
	contentUnknown content = iota // no byte has told yet
	contentEvents
	contentJSON
	contentPage // HTML or XML: a login, a block page
	contentOther
)

func (c content) String() string {
	return [...]string{"an empty answer", "events", "JSON", "a page of HTML", "neither events nor a JSON object"}[c]
}

// contentOf looks at the beginning of a body.
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
	until time.Time // the end of waiting, zero for none

	first []byte // read by open and not yet taken
	err   error  // how the body ended
}

func (x *exchange) intake(body io.Reader) *intake {
	idle := time.AfterFunc(x.gw.cfg.IdleLimit, func() { x.cancel(errStalled) })
	return &intake{x: x, body: body, idle: idle, buf: make([]byte, relayStep)}
}

// next returns the next piece, which is good until the next call, or how the
// body ended: io.EOF, errStalled or what went wrong. The idle limit runs only
// while the upstream is waited for, not while the sandbox reads.
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

// open reads until it is known what the answer is: of events the first one, of
// JSON all that an error may have. The pieces come again from next.
func (in *intake) open(declared string) (kind content, first *meter) {
	first = &meter{}
	var held []byte
	for {
		p, err := in.next()
		held = append(held, p...)
		if kind == contentUnknown {
			if kind = contentOf(held); kind == contentOther && declared == eventsType {
				kind = contentEvents // fields that have no meaning are allowed there
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

// headerHold is how long the header of a stream waits for its first event. One
// that is an error can then still be answered with its status.
const headerHold = time.Second

// hold sends the header of a stream that stays silent: the CLI has a limit for
// it. The caller calls stop before it writes anything.
func (x *exchange) hold(h http.Header) (stop func()) {
	var mu sync.Mutex
	stopped := false
	timer := time.AfterFunc(headerHold, func() {
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

// begin sends the header of a good answer, once.
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
