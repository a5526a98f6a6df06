package gateway

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// Causes that cancel a request to the upstream.
var (
	errNoHeader = errors.New("no answer within the limit")
	errStalled  = errors.New("the answer stopped")
)

// exchange is one request of a sandbox and its answer.
type exchange struct {
	gw     *Gateway
	grant  *Grant
	w      http.ResponseWriter
	rc     *http.ResponseController
	client context.Context // of the request: ends when the client disconnects

	ctx    context.Context // of the call: ends with the client, the grant or a limit
	cancel context.CancelCauseFunc
	counts bool // a complete answer proves that the model works

	begun    bool // the header of a successful answer has been sent
	model    string
	use      spending
	received int64 // bytes of the answer
	entry    audit.Entry
}

// serve checks the request, sends it and relays the answer.
//
// The call is passed as a pointer everywhere on purpose: with a value whose
// address is taken in this frame, an abort below it made the runtime of Go 1.26
// and 1.27 treat the dead value as live and end the program ("found pointer to
// free object"; seen under the race detector with GOGC=5).
func (x *exchange) serve(r *http.Request, call *Call) {
	x.ctx, x.cancel = context.WithCancelCause(x.client)
	defer x.cancel(nil)
	// A context does not interrupt a read or write on the sandbox's connection;
	// a deadline in the past does. Code that sets another deadline checks
	// grant.ctx after it, so that this one cannot be lost: see ready.
	defer context.AfterFunc(x.grant.ctx, func() {
		x.cancel(context.Cause(x.grant.ctx))
		past := time.Unix(1, 0)
		_ = x.rc.SetReadDeadline(past)
		_ = x.rc.SetWriteDeadline(past)
	})()

	// These run after an abort too: the ledger first, since the audit log records
	// its numbers.
	defer func() { x.record(call, x.received) }()
	defer x.endSpending()
	p, free, refusal := x.readBody(r, call)
	defer free()
	if refusal == nil {
		// The body is complete: from here on the server watches the connection
		// without a limit, to notice a disconnect. After a refusal the limit
		// remains, since the server reads the remaining body.
		_ = x.rc.SetReadDeadline(time.Time{})
		x.counts = call.Path == messagesPath
		if refusal = x.grant.ledger.blocked(); refusal == nil {
			refusal = x.reserve(call, p)
		}
	}
	if x.grant.ctx.Err() != nil {
		x.abort()
	}
	if refusal != nil {
		x.model = p.model
		x.refused(refusal)
		x.grant.warn("request of a sandbox refused", "status", refusal.status, "reason", x.entry.Reason, "model", truncate(p.model, 128))
		x.answer(refusal)
		return
	}
	limit := x.gw.cfg.HeaderLimit
	if x.counts && !p.stream {
		limit = x.gw.cfg.AnswerLimit
	}
	x.send(call, limit)
}

// send sends the call and relays the answer.
func (x *exchange) send(call *Call, limit time.Duration) {
	begun := time.Now()
	x.grant.ledger.count(func(u *Usage) { u.Requests++; u.BytesSent += int64(len(call.Body)) })
	timer := time.AfterFunc(limit, func() { x.cancel(errNoHeader) })
	x.use.asked = begun
	answer, err := (*x.gw.upstream.Load()).Send(x.ctx, *call)
	timer.Stop()
	if err != nil {
		x.sendFailed(err)
		return
	}
	resp := answer.Response
	defer resp.Body.Close()
	x.use.spent.Upstream, x.use.spent.Terms.Regional = answer.Upstream, answer.Regional
	if answer.Model != call.Model {
		x.use.spent.Model = answer.Model
	}
	x.entry.Status = resp.StatusCode
	defer func() {
		x.grant.log.Debug("model request", "path", call.Path, "upstream", answer.Upstream, "model", truncate(answer.Model, 128), "status", resp.StatusCode, "elapsed", time.Since(begun))
	}()
	switch {
	case context.Cause(x.ctx) != nil:
		x.sendFailed(context.Cause(x.ctx))
	case resp.StatusCode >= 400 && resp.StatusCode < 600:
		x.upstreamRefused(answer)
	case resp.StatusCode != http.StatusOK:
		x.failed(dreamcore.FailNetwork, 502, "The model API sent an unexpected answer.",
			"reason", "unexpected status", "status", resp.StatusCode)
	case resp.Header.Get("Content-Encoding") != "":
		x.failed(dreamcore.FailNetwork, 502, "The model API sent an unexpected answer.",
			"reason", "unexpected encoding", "content_encoding", truncate(resp.Header.Get("Content-Encoding"), 128))
	default:
		x.use.answering = true
		x.relay(answer, call)
	}
}

// sendFailed answers a call for which there is no answer of the upstream.
func (x *exchange) sendFailed(err error) {
	switch {
	case x.gone():
		x.use.answering = true // the model may have started
		x.abort()
	case errors.Is(err, ErrNoCredential):
		x.alarmed(&fault{alarm: "the model API cannot be used without its key: " + cmp.Or(dreamcore.HintOf(err), defaultRepair)}, "err", err)
	case errors.Is(context.Cause(x.ctx), errNoHeader):
		if x.use.whole { // a stream that has not started has cost nothing
			x.use.answering = true
		}
		x.failed(dreamcore.FailAPITimeout, 504, "The model API took too long to answer.", "reason", errNoHeader)
	default:
		x.failed(dreamcore.FailNetwork, 502, "The model API could not be reached.", "reason", err)
	}
}

// failed records and logs a failure of the model and answers with the status.
func (x *exchange) failed(code dreamcore.FailureCode, status int, message string, attrs ...any) {
	x.answer(&apiError{status: status, message: message, retry: x.recordFailure(code, status, message, attrs...)})
}

// recordFailure records and logs a failure of the model, and returns whether the
// CLI should retry.
func (x *exchange) recordFailure(code dreamcore.FailureCode, status int, reason any, attrs ...any) retry {
	x.failedWith(status, reason)
	x.grant.warn("the model failed", append([]any{"code", code}, attrs...)...)
	return x.grant.ledger.fail(code)
}

// alarmed records a failure that only the operator can fix. The sandbox, and so
// the player, does not see the cause.
func (x *exchange) alarmed(f *fault, attrs ...any) {
	x.grant.ledger.fail(dreamcore.FailAuth)
	x.failedWith(x.entry.Status, f.alarm)
	x.grant.log.Log(x.client, x.grant.alarms.level(slog.LevelError), f.alarm, append(f.attrs, attrs...)...)
	if f.noModel {
		// Unlike with a rejected key, the CLI can continue with another model.
		x.answer(never(404, "This model is not available."))
		return
	}
	x.answer(never(401, "The service is not set up correctly."))
}

// upstreamRefused answers with the error that the API reports.
func (x *exchange) upstreamRefused(answer *Answer) {
	timer := time.AfterFunc(x.gw.cfg.IdleLimit, func() { x.cancel(errStalled) })
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxErrorBody)) // on an error the status is enough
	timer.Stop()
	if x.gone() {
		x.abort()
	}
	x.answerAPIError(answer, answer.StatusCode, parseUpstreamError(text))
}

// answerAPIError answers with an error of the API, depending on its cause. The
// sandbox sees the API's text only if it is about the request: otherwise it may
// name the operator's account.
func (x *exchange) answerAPIError(answer *Answer, status int, reported upstreamError) {
	attrs := []any{"upstream", answer.Upstream, "status", status, "reason", truncate(reported.message, 512), "request_id", truncate(answer.Header.Get("Request-Id"), 128)}
	f := x.faultOf(answer, status, reported)
	if f.alarm != "" {
		x.alarmed(f, attrs...)
		return
	}
	e := &apiError{status: status, kind: reported.kind, message: f.message, after: seconds(RetryAfter(answer.Header, time.Now()))}
	if f.code != "" {
		e.retry = x.grant.ledger.fail(f.code)
	} else if l := &x.grant.ledger; x.counts {
		l.update(func() { l.refused, l.tooLong = true, f.tooLong })
	}
	switch answer.Header.Get("X-Should-Retry") {
	case "false":
		e.retry = retryNo
	case "true":
		if e.retry == retryByStatus {
			e.retry = retryYes
		}
	}
	x.failedWith(status, reported.kind)
	x.grant.warn("the model API answered with an error", attrs...)
	x.answer(e)
}

// gone reports whether the client has disconnected or the grant has ended.
func (x *exchange) gone() bool { return x.client.Err() != nil || x.grant.ctx.Err() != nil }

// abort ends the answer and closes the connection.
func (x *exchange) abort() { panic(http.ErrAbortHandler) }

// answer sends an error as the complete answer, or as the last event of a stream
// whose header has been sent.
func (x *exchange) answer(e *apiError) {
	if !x.ready() {
		x.abort()
	}
	if x.begun {
		if err := x.put(e.event()); err != nil {
			x.abort()
		}
		return
	}
	e.write(x.w)
}

// ready sets the write deadline of the next piece and reports whether the grant
// is still valid. The order matters: whichever of the two deadlines is set last,
// a grant that has ended does not wait for a sandbox that does not read.
func (x *exchange) ready() bool {
	_ = x.rc.SetWriteDeadline(time.Now().Add(x.gw.cfg.WriteLimit))
	return x.grant.ctx.Err() == nil
}

// put sends a piece of an answer immediately.
func (x *exchange) put(p []byte) error {
	if !x.ready() {
		return context.Cause(x.grant.ctx)
	}
	if _, err := x.w.Write(p); err != nil {
		return err
	}
	return x.rc.Flush()
}
