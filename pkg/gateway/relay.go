package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

var (
	errTooLong    = errors.New("the answer is over its limit")
	errClientLost = errors.New("the sandbox does not take the answer")
)

// relayStep is the size of the pieces of a fast answer.
const relayStep = 32 << 10

// relay passes a good answer back, each piece as it comes.
func (x *exchange) relay(resp *http.Response) {
	answerHeader(x.w.Header(), resp.Header)
	if mediaType(resp.Header) != "text/event-stream" {
		x.relayBody(resp)
		return
	}
	x.relayStream(resp)
}

// relayStream passes a stream of events and reads along. It is complete when
// message_stop was seen; what comes or does not come after that is no failure.
func (x *exchange) relayStream(resp *http.Response) {
	m := &meter{boundary: true}
	defer func() { x.used(m.guess()) }()
	x.w.WriteHeader(http.StatusOK)
	_ = x.rc.Flush() // the CLI has a limit for the header of its own
	done, known := false, tokens{}
	err := x.copy(resp.Body, func(p []byte) {
		m.feed(p)
		if m.tokens != known {
			// As soon as it is known: who kills us now must not have it for nothing.
			known = m.tokens
			x.used(known.spent(), false)
		}
		if m.complete && !done {
			// Before the client can see it: a job may end right then.
			done = true
			x.complete()
		}
	})
	switch {
	case done && (err == nil || errors.Is(err, errStalled)):
	case done || x.lost(err):
		x.abort()
	case m.errorKind != "":
		x.streamFailed(m.errorKind)
		if err != nil {
			x.abort()
		}
	case errors.Is(err, errStalled):
		x.stalled(m)
	default:
		x.cut(err)
	}
}

// relayBody passes an answer in one piece.
func (x *exchange) relayBody(resp *http.Response) {
	if resp.ContentLength > x.gw.cfg.MaxResponse {
		clear(x.w.Header())
		x.failed(dreamcore.FailNetwork, 502, "The model API gave an answer that is too long.", "reason", errTooLong)
		return
	}
	if resp.ContentLength >= 0 {
		x.w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	x.w.WriteHeader(http.StatusOK)
	var m bodyMeter
	err := x.copy(resp.Body, m.feed)
	if t, known := m.tokens(); known {
		x.used(t, false)
	} else if x.counts { // cut, too long to be looked at, or without usage
		x.used(dreamcore.Tokens{Output: x.received / bytesPerToken}, true)
	}
	switch {
	case err == nil:
		x.complete()
	case x.lost(err):
		x.abort()
	case errors.Is(err, errStalled):
		// There is no place for an error in the middle of an object.
		x.grant.ledger.fail(dreamcore.FailAPITimeout)
		x.failedWith(504, errStalled)
		x.grant.warn("the model failed", "code", dreamcore.FailAPITimeout, "reason", errStalled)
		x.abort()
	default:
		x.cut(err)
	}
}

// lost tells whether the sandbox, and not the upstream, ended the answer.
func (x *exchange) lost(err error) bool { return x.gone() || errors.Is(err, errClientLost) }

// complete records an answer that proves the model works.
func (x *exchange) complete() {
	if x.counts {
		x.grant.ledger.succeed()
	}
}

// stalled ends a silent stream with an error that the CLI understands.
func (x *exchange) stalled(m *meter) {
	x.grant.ledger.fail(dreamcore.FailAPITimeout)
	x.failedWith(504, errStalled)
	x.grant.warn("the model failed", "code", dreamcore.FailAPITimeout, "reason", errStalled, "after", x.gw.cfg.IdleLimit)
	event := (&apiError{status: 504, kind: "api_error", message: "The model API stopped in the middle of its answer."}).event()
	if !m.boundary {
		// The event begins on a line of its own, after a broken one's end.
		event = append([]byte("\n\n"), event...)
	}
	if err := x.put(event); err != nil {
		x.abort()
	}
}

// streamFailed records an error that the API reported within its stream.
func (x *exchange) streamFailed(kind string) {
	code := dreamcore.FailNetwork
	switch kind {
	case "overloaded_error", "rate_limit_error":
		code = dreamcore.FailRateLimit
	case "timeout_error":
		code = dreamcore.FailAPITimeout
	case "authentication_error", "permission_error", "billing_error":
		code = dreamcore.FailAuth
	}
	x.grant.ledger.fail(code)
	x.failedWith(x.entry.Status, kind)
	x.grant.warn("the model failed", "code", code, "reason", "error event in the stream", "type", kind)
}

// cut records an answer that ended half-way and lets the client see it as one.
func (x *exchange) cut(err error) {
	x.grant.ledger.cut()
	x.failedWith(x.entry.Status, "the answer was cut")
	x.grant.warn("the model failed", "code", dreamcore.FailNetwork, "reason", "the answer was cut", "err", err)
	x.abort()
}

// copy passes body on and lets see look at each piece first. The idle limit
// runs only while the upstream is waited for, not while the sandbox reads.
func (x *exchange) copy(body io.Reader, see func([]byte)) error {
	idle := time.AfterFunc(x.gw.cfg.IdleLimit, func() { x.cancel(errStalled) })
	defer idle.Stop()
	buf := make([]byte, relayStep)
	var total int64
	for {
		idle.Reset(x.gw.cfg.IdleLimit)
		n, err := body.Read(buf)
		idle.Stop()
		if n > 0 {
			total += int64(n)
			x.received = total
			if total > x.gw.cfg.MaxResponse {
				return errTooLong
			}
			x.grant.ledger.count(func(u *Usage) { u.BytesReceived += int64(n) })
			see(buf[:n])
			if err := x.put(buf[:n]); err != nil {
				return fmt.Errorf("%w: %w", errClientLost, err)
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil && errors.Is(context.Cause(x.ctx), errStalled):
			return errStalled
		case err != nil:
			return err
		}
	}
}
