package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// HostCall is a model request of the service itself, without a sandbox.
type HostCall struct {
	Name          string // the prompt endpoint's; not sent over the network
	User, Project string // for the audit log; may be empty
	Meter         Meter  // the ledger; if nil, there are no limits

	Model     string
	MaxTokens int
	System    string // may be empty
	Prompt    string

	TimeLimit time.Duration // of the whole call
	MaxText   int           // limit of the answer's text in bytes; the call is cancelled beyond it
}

// HostAnswer is the text of a complete answer, or of one that was cancelled
// because it exceeds HostCall.MaxText.
type HostAnswer struct {
	Text string
	Stop string // the API's stop_reason; "" if the upstream does not send it
}

// HostError reports why there is no answer. The cause has been logged.
type HostError struct {
	Code   dreamcore.FailureCode
	Status int                   // of the answer; 0 if it was interrupted
	Over   *dreamcore.OverBudget // set if a limit refused the request
}

func (e *HostError) Error() string {
	if e.Over != nil {
		return e.Over.Error()
	}
	if e.Status == 0 || e.Status == http.StatusOK {
		return fmt.Sprintf("the model's answer was not complete (%s)", e.Code)
	}
	return fmt.Sprintf("the model did not answer (%s, status %d)", e.Code, e.Status)
}

// hostGrace is how much longer than its limit a call may take: at the limit, the
// exchange itself cancels a silent upstream and charges for the call.
const hostGrace = time.Second

// Ask sends a call of the service to the upstream. It uses the same exchange as
// the requests of sandboxes, so limits, ledger, audit log and the logging of
// failures apply in the same way. The error is a *HostError, or the cause of ctx
// if ctx has ended.
func (g *Gateway) Ask(ctx context.Context, call HostCall) (HostAnswer, error) {
	body, err := call.body()
	if err != nil {
		return HostAnswer{}, err
	}
	limited, cancel := context.WithTimeout(context.WithValue(ctx, promptKey{}, call.Name), call.TimeLimit+hostGrace)
	defer cancel()

	// A gateway with the same upstream and the limits of this call, and a socket
	// without a listener, since a grant needs one.
	own := &Gateway{cfg: g.cfg, bodies: g.bodies}
	own.upstream.Store(g.upstream.Load())
	own.cfg.HeaderLimit, own.cfg.AnswerLimit = call.TimeLimit, call.TimeLimit
	own.cfg.IdleLimit = min(own.cfg.IdleLimit, call.TimeLimit)
	s := &Socket{gw: own, path: "prompt " + call.Name, grants: make(map[*Grant]struct{})}
	s.ctx, s.cancel = context.WithCancelCause(limited)
	defer s.cancel(errSocketClosed)

	gr := s.Grant(GrantOptions{Job: "prompt:" + call.Name, Meter: call.Meter, User: call.User, Project: call.Project})
	out := newHostWriter(call.MaxText)
	whole := s.ask(limited, gr, out, body)
	gr.Revoke()
	if ctx.Err() != nil {
		return HostAnswer{}, context.Cause(ctx)
	}
	return out.answer(limited, whole, gr)
}

// ask runs one exchange and reports whether its answer is complete.
func (s *Socket) ask(ctx context.Context, gr *Grant, out *hostWriter, body []byte) (whole bool) {
	if refusal := gr.begin(); refusal != nil {
		refusal.write(out)
		return true
	}
	defer gr.end()
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			panic(v)
		}
	}()
	defer s.logPanic()
	r := &http.Request{Method: http.MethodPost, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
	x := &exchange{gw: s.gw, grant: gr, w: out, rc: http.NewResponseController(out), client: ctx}
	x.serve(r, &Call{Path: messagesPath, Header: requestHeader(http.Header{
		"Accept": {"application/json"}, "Anthropic-Version": {"2023-06-01"},
	})})
	return true
}

// body returns the request body. It requests a stream: a slow upstream can then
// be distinguished from one that does not answer by the time of the first byte.
func (c HostCall) body() ([]byte, error) {
	request := map[string]any{
		"model": c.Model, "max_tokens": c.MaxTokens, "stream": true,
		"messages": []map[string]string{{"role": "user", "content": c.Prompt}},
	}
	if c.System != "" {
		request["system"] = c.System
	}
	return json.Marshal(request)
}

// promptKey is the context key of the endpoint's name.
type promptKey struct{}

// promptOf returns the prompt endpoint of a call, or "".
func promptOf(ctx context.Context) string {
	name, _ := ctx.Value(promptKey{}).(string)
	return name
}

// hostWriter collects the text of an answer in memory. It bounds the text, and
// each line of a stream or a complete message around it.
type hostWriter struct {
	header http.Header
	status int
	limit  int          // of the text
	meter  meter        // reads the events of a stream
	kept   bytes.Buffer // an answer that is not streamed
	text   strings.Builder
	full   bool // there is more text than the limit
}

var errHostFull = errors.New("the answer has more text than its limit")

func newHostWriter(limit int) *hostWriter {
	w := &hostWriter{header: make(http.Header), limit: limit}
	w.meter.onContent, w.meter.lineLimit = w.content, w.maxKept()
	return w
}

func (w *hostWriter) Header() http.Header { return w.header }

func (w *hostWriter) WriteHeader(status int) { w.status = cmp.Or(w.status, status) }

// maxKept bounds a line or message whose text is within the limit: JSON encodes a
// byte as at most six, and there are names, numbers and a signature around it.
func (w *hostWriter) maxKept() int { return 6*w.limit + 256<<10 }

// Write ends the exchange with an error once a limit is exceeded.
func (w *hostWriter) Write(p []byte) (n int, err error) {
	w.WriteHeader(http.StatusOK)
	if w.streamed() {
		w.meter.feed(p)
		w.full = w.meter.exceeded || w.text.Len() > w.limit
	} else if w.full = w.kept.Len()+len(p) > w.maxKept(); !w.full {
		w.kept.Write(p)
	}
	if w.full {
		return 0, errHostFull
	}
	return len(p), nil
}

func (w *hostWriter) streamed() bool { return mediaType(w.header) == eventsType }

// FlushError lets http.ResponseController flush: there is nothing to do.
func (w *hostWriter) FlushError() error { return nil }

// content appends the text of a stream's event, up to the event that exceeds the
// limit.
func (w *hostWriter) content(kind string, event map[string]json.RawMessage) {
	switch {
	case w.text.Len() > w.limit:
	case kind == "content_block_start":
		w.block(event["content_block"], "text")
	case kind == "content_block_delta":
		w.block(event["delta"], "text_delta")
	}
}

// block appends the text of a block or delta of the given type.
func (w *hostWriter) block(raw json.RawMessage, kind string) {
	if block := members(raw); textOf(block["type"]) == kind {
		w.text.WriteString(textOf(block["text"]))
	}
}

// answer returns the text of the exchange's answer.
func (w *hostWriter) answer(ctx context.Context, whole bool, gr *Grant) (HostAnswer, error) {
	fault := &HostError{Code: cmp.Or(gr.Failure(), dreamcore.FailUnknown), Status: w.status, Over: gr.overLimit()}
	switch {
	case w.full:
	case ctx.Err() != nil:
		fault.Code, fault.Status = dreamcore.FailAPITimeout, 0
		return HostAnswer{}, fault
	case !whole:
		fault.Status = 0
		return HostAnswer{}, fault
	case w.status != http.StatusOK || gr.Failure() != "":
		return HostAnswer{}, fault
	}
	stop := w.finish()
	if w.full && w.text.Len() <= w.limit {
		return HostAnswer{}, fault // a line without text was too long
	}
	return HostAnswer{Text: strings.ToValidUTF8(w.text.String(), "\uFFFD"), Stop: stop}, nil
}

// finish reads the end of the answer and returns its stop_reason.
func (w *hostWriter) finish() (stop string) {
	if w.streamed() {
		w.meter.finish() // the last line and event may be unterminated
		return w.meter.stop
	}
	message := members(w.kept.Bytes())
	var blocks []json.RawMessage
	_ = json.Unmarshal(message["content"], &blocks) // another form has no text
	for _, block := range blocks {
		w.block(block, "text")
	}
	return textOf(message["stop_reason"])
}
