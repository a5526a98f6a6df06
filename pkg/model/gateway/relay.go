package gateway

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

var (
	errTooLong    = errors.New("the answer exceeds its size limit")
	errEmpty      = errors.New("the answer is empty")
	errClientLost = errors.New("the sandbox does not read the answer")
)

// relayStep is the size of the pieces of a fast answer.
const relayStep = 32 << 10

// endGrace is how long an answer may stay open after message_stop: most end
// immediately, and then their connection can be reused.
const endGrace = 250 * time.Millisecond

// stopEvent completes an answer whose server omits it.
var stopEvent = []byte("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")

// relay forwards an answer with status 200, each piece as it arrives, unless its
// beginning shows that it is not an answer.
func (x *exchange) relay(answer *Answer, call *Call) {
	resp := answer.Response
	if resp.ContentLength > x.gw.cfg.MaxResponse {
		x.failed(dreamcore.FailNetwork, 502, "The model API sent an answer that is too long.", "reason", errTooLong)
		return
	}
	declared := mediaType(resp.Header)
	in := x.intake(resp.Body)
	defer in.idle.Stop()
	stop := func() {}
	if declared == eventsType {
		stop = x.delayHeader(resp.Header)
	}
	kind, first := in.open(declared)
	stop()
	if x.rejectAnswer(answer, in, kind, first) {
		return
	}
	switch {
	case kind == contentEvents:
		x.begin(resp.Header, eventsType)
		x.relayStream(in)
	case call.Stream && call.Path == messagesPath:
		x.relayMessage(in, resp.Header)
	default:
		if resp.ContentLength >= 0 && !x.begun {
			x.w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
		}
		x.begin(resp.Header, jsonType)
		x.relayBody(in)
	}
}

// rejectAnswer ends the exchange and returns true if the beginning of an answer
// shows that it is not one: it is empty, an error or a page. The model has
// generated nothing then, so nothing is charged.
func (x *exchange) rejectAnswer(answer *Answer, in *intake, kind content, first *meter) bool {
	x.received = int64(len(in.first))
	ended := in.err == io.EOF
	var reported upstreamError
	switch {
	case in.err != nil && x.gone():
		x.abort()
	case kind == contentPage || kind == contentOther:
		x.use.answering = false
		x.failed(dreamcore.FailNetwork, 502, "The model API sent an unexpected answer.",
			"reason", "unexpected content: "+kind.String(), "content_type", truncate(answer.Header.Get("Content-Type"), 128))
		return true
	case first.failedFirst:
		reported = first.failure
	case kind == contentJSON && ended && isError(in.first):
		reported = parseUpstreamError(in.first)
	case ended && (kind == contentUnknown || kind == contentEvents && first.events == 0):
		reported = upstreamError{kind: kindOf(statusOverloaded), message: errEmpty.Error()}
	case kind == contentUnknown && errors.Is(in.err, errStalled):
		x.failed(dreamcore.FailAPITimeout, 504, "The model API took too long to answer.", "reason", errStalled)
		return true
	case kind == contentUnknown && in.err != nil:
		x.use.answering = false
		x.failed(dreamcore.FailNetwork, 502, "The connection to the model API was lost.", "reason", in.err)
		return true
	default:
		return false
	}
	x.use.answering = false
	x.grant.ledger.count(func(u *Usage) { u.BytesReceived += x.received })
	x.answerAPIError(answer, reported.statusOr(http.StatusInternalServerError), reported)
	return true
}

// relayStream forwards a stream of events and meters it. The stream is complete
// after message_stop, or if it ends after a stop_reason, in which case the end is
// supplied. Anything that follows, or fails to follow, is not a failure.
func (x *exchange) relayStream(in *intake) {
	m := &meter{boundary: true}
	defer func() {
		x.use.final = m.outputKnown || m.complete || m.stopped || m.failed
		x.used(m.estimate())
	}()
	done, known := false, tokens{}
	var held []byte // incomplete event after the stop_reason
	err := x.copy(in, func(p []byte) []byte {
		m.feed(p)
		if done { // the rest is read for its usage only
			return nil
		}
		if m.tokens != known {
			// Recorded immediately: usage must not be lost if the process is killed.
			known = m.tokens
			x.used(known, false)
		}
		switch {
		case m.failed:
		case m.complete:
			// Before the client can see it: the job may end right then.
			done = true
			x.complete()
			in.until = time.Now().Add(endGrace)
			p = p[:len(p)-m.trailing]
		case m.stopped && in.until.IsZero():
			in.until = time.Now().Add(x.gw.cfg.StopLimit)
		}
		if m.stopped || len(held) > 0 {
			p = append(held, p...)
			whole := len(p)
			if !done {
				whole -= min(m.open, len(p))
			}
			held = bytes.Clone(p[whole:])
			p = p[:whole]
		}
		return p
	})
	boundary := m.boundary || len(held) > 0
	if !done && (err == nil || m.stopped) {
		m.finish()
	}
	switch {
	case x.lost(err):
		x.abort()
	case done:
	case m.failed:
		x.streamFailed(m)
		if err != nil {
			x.abort()
		}
	case m.complete || m.stopped:
		x.supplyEnd(m, held, boundary)
	case err == nil && m.events == 0:
		x.use.free = true
		x.failed(dreamcore.FailRateLimit, statusOverloaded, "The model API is busy.", "reason", errEmpty)
	case errors.Is(err, errStalled):
		x.stalled(boundary)
	default:
		x.interrupted(err)
	}
}

// supplyEnd completes an answer that has its stop_reason. boundary reports
// whether the part that was sent ends with a complete event.
func (x *exchange) supplyEnd(m *meter, held []byte, boundary bool) {
	x.complete()
	var end []byte
	switch {
	case m.complete: // only the end of the last event is missing
		end = append(held, "\n\n"...)
	case boundary:
		end = stopEvent
	default:
		end = append([]byte("\n\n"), stopEvent...)
	}
	if err := x.put(end); err != nil {
		x.abort()
	}
}

// relayBody forwards an answer that is not streamed.
func (x *exchange) relayBody(in *intake) {
	var m bodyMeter
	err := x.copy(in, func(p []byte) []byte {
		m.feed(p)
		return p
	})
	x.usedBody(&m, err)
	if err != nil {
		x.bodyFailed(err)
		return
	}
	x.complete()
}

// usedBody records the usage of an answer that is not streamed and ended with
// err.
func (x *exchange) usedBody(m *bodyMeter, err error) {
	t, known := m.tokens()
	x.use.final = known || err == nil
	if known {
		x.used(t, false)
	} else if x.counts { // interrupted, too long to be parsed, or without usage
		x.used(tokens{Output: x.received / bytesPerToken}, true)
	}
}

// bodyFailed ends an incomplete answer that is not streamed. An error cannot be
// sent in the middle of an object.
func (x *exchange) bodyFailed(err error) {
	switch {
	case x.lost(err):
		x.abort()
	case errors.Is(err, errStalled):
		x.recordFailure(dreamcore.FailAPITimeout, 504, errStalled, "reason", errStalled)
		x.abort()
	default:
		x.interrupted(err)
	}
}

// relayMessage converts a message that answers a request for a stream, but is
// not streamed, to a stream.
func (x *exchange) relayMessage(in *intake, h http.Header) {
	var m bodyMeter
	err := x.copy(in, func(p []byte) []byte {
		if m.feed(p); m.tooLong {
			in.err = errTooLong
		}
		return nil
	})
	x.usedBody(&m, err)
	if err != nil {
		x.begin(h, eventsType)
		x.bodyFailed(err)
		return
	}
	events := messageEvents(m.kept)
	if events == nil { // a form that the CLI may know
		x.begin(h, jsonType)
		events = m.kept
	}
	x.begin(h, eventsType)
	x.complete()
	if err := x.put(events); err != nil {
		x.abort()
	}
}

// lost reports whether the sandbox, and not the upstream, ended the answer.
func (x *exchange) lost(err error) bool { return x.gone() || errors.Is(err, errClientLost) }

// complete records an answer that proves that the model works.
func (x *exchange) complete() {
	if x.counts {
		x.grant.ledger.succeed()
	}
}

// stalled ends a silent stream with an error that the CLI understands.
func (x *exchange) stalled(boundary bool) {
	x.recordFailure(dreamcore.FailAPITimeout, 504, errStalled, "reason", errStalled, "after", x.gw.cfg.IdleLimit)
	event := (&apiError{status: 504, kind: "api_error", message: "The model API stopped in the middle of its answer."}).event()
	if !boundary {
		// Ends the incomplete event first.
		event = append([]byte("\n\n"), event...)
	}
	if err := x.put(event); err != nil {
		x.abort()
	}
}

// streamFailed records an error that the API reported within its stream. Usage
// before it is charged.
func (x *exchange) streamFailed(m *meter) {
	x.use.free = m.text == 0 && m.tokens == tokens{}
	f := x.faultOf(nil, m.failure.statusOr(http.StatusInternalServerError), m.failure)
	attrs := []any{"reason", "error event in the stream", "type", m.failure.kind, "said", truncate(m.failure.message, 512)}
	code := cmp.Or(f.code, dreamcore.FailNetwork) // in the middle of an answer, the request cannot be the cause
	if f.alarm == "" {
		x.recordFailure(code, x.entry.Status, m.failure.kind, attrs...)
		return
	}
	x.grant.ledger.fail(code)
	x.failedWith(x.entry.Status, m.failure.kind)
	x.grant.log.Log(x.client, x.grant.alarms.level(slog.LevelError), f.alarm, append(f.attrs, attrs...)...)
}

// interrupted records an answer that ended half-way and aborts the client's
// connection, so that the client notices.
func (x *exchange) interrupted(err error) {
	const reason = "the answer was interrupted"
	x.recordFailure(dreamcore.FailNetwork, x.entry.Status, reason, "reason", reason, "err", err)
	x.grant.ledger.interrupted()
	_ = x.rc.Flush() // the client sees that an answer had started
	x.abort()
}

// copy forwards the answer. Each piece passes through filter first, which returns
// the part to forward.
func (x *exchange) copy(in *intake, filter func([]byte) []byte) error {
	var total int64
	for {
		p, err := in.next()
		if n := int64(len(p)); n > 0 {
			total += n
			x.received = total
			if total > x.gw.cfg.MaxResponse {
				return errTooLong
			}
			x.grant.ledger.count(func(u *Usage) { u.BytesReceived += n })
			if p = filter(p); len(p) > 0 {
				if err := x.put(p); err != nil {
					return fmt.Errorf("%w: %w", errClientLost, err)
				}
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
