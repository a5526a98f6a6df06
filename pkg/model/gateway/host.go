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

// HostCall is a request for the model that the service makes itself, without a
// sandbox.
type HostCall struct {
	Name          string // of the prompt endpoint; no upstream over the network sees it
	User, Project string // for the audit log; may be empty
	Meter         Meter  // keeps the ledger; nil: there is none, and no limits

	Model     string
	MaxTokens int
	System    string // may be empty
	Prompt    string

	TimeLimit time.Duration // of the whole call
	MaxText   int           // bytes of the answer's text; the call ends where there are more
}

// HostAnswer is the text of a complete answer, or of one that was ended because
// it is longer than HostCall.MaxText.
type HostAnswer struct {
	Text string
	Stop string // the API's stop_reason; "" where the upstream names none
}

// HostError reports why there is no answer. The cause is in the log already.
type HostError struct {
	Code   dreamcore.FailureCode
	Status int                   // of the answer; 0 where it was cut
	Over   *dreamcore.OverBudget // set where a limit refused the request
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

// hostGrace is how much longer than its limit a call lives: the exchange ends
// a silent upstream itself, at the limit, and charges for it.
const hostGrace = time.Second

// Ask sends a call of the service to the upstream. It passes the same exchange
// as the requests of sandboxes, so limits, ledger, audit log and the log of
// failures apply in the same way. Ask returns a *HostError, or ctx's error
// when the caller has gone.
func (g *Gateway) Ask(ctx context.Context, call HostCall) (HostAnswer, error) {
	body, err := call.body()
	if err != nil {
		return HostAnswer{}, err
	}
	limited, cancel := context.WithTimeout(context.WithValue(ctx, promptKey{}, call.Name), call.TimeLimit+hostGrace)
	defer cancel()

	// A gateway of the same upstream with the limits of this call, and a
	// socket without a listener: a grant belongs to one.
	own := &Gateway{cfg: g.cfg, bodies: g.bodies}
	own.upstream.Store(g.upstream.Load())
	own.cfg.HeaderLimit, own.cfg.AnswerLimit = call.TimeLimit, call.TimeLimit
	own.cfg.IdleLimit = min(own.cfg.IdleLimit, call.TimeLimit)
	own.cfg.Models = nil // which models a job may use is the sandbox's bound
	s := &Socket{gw: own, path: "prompt " + call.Name, grants: make(map[*Grant]struct{})}
	s.ctx, s.cancel = context.WithCancelCause(limited)
	defer s.cancel(errSocketClosed)

	meter := &hostMeter{Meter: call.Meter}
	if meter.Meter == nil {
		meter.Meter = nopMeter{}
	}
	gr := s.Grant(GrantOptions{Job: "prompt:" + call.Name, Meter: meter, User: call.User, Project: call.Project})
	out := &hostWriter{header: make(http.Header), limit: call.MaxText}
	whole := s.ask(limited, gr, out, body)
	gr.Revoke()
	if ctx.Err() != nil {
		return HostAnswer{}, context.Cause(ctx)
	}
	return out.answer(whole, limited, gr, meter)
}

// ask runs one exchange and reports whether its answer came to an end.
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

// body is a streamed request: an upstream that works is told from one that
// does not by the time of its first byte.
func (c HostCall) body() ([]byte, error) {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	return json.Marshal(struct {
		Model     string    `json:"model"`
		MaxTokens int       `json:"max_tokens"`
		Stream    bool      `json:"stream"`
		System    string    `json:"system,omitempty"`
		Messages  []message `json:"messages"`
	}{c.Model, c.MaxTokens, true, c.System, []message{{"user", c.Prompt}}})
}

// promptKey is the key of the endpoint's name in the context of a call.
type promptKey struct{}

// promptOf returns the endpoint that a call is made for, or "".
func promptOf(ctx context.Context) string {
	name, _ := ctx.Value(promptKey{}).(string)
	return name
}

// hostMeter remembers the limit that refused a request.
type hostMeter struct {
	Meter
	over *dreamcore.OverBudget
}

func (m *hostMeter) Reserve(model string, input, output int64) (func(dreamcore.Spent, bool) dreamcore.Nano, error) {
	report, err := m.Meter.Reserve(model, input, output)
	m.over, _ = errors.AsType[*dreamcore.OverBudget](err)
	return report, err
}

// hostWriter keeps the text of an answer in memory, and no more of it than the
// line of an event or a message with that text may have.
type hostWriter struct {
	header http.Header
	status int
	limit  int          // of the text
	kept   bytes.Buffer // of a stream the unfinished line, else the whole answer
	text   hostText
	full   bool // there is more text than the limit
}

var errHostFull = errors.New("the answer has more text than its limit")

func (w *hostWriter) Header() http.Header { return w.header }

func (w *hostWriter) WriteHeader(status int) { w.status = cmp.Or(w.status, status) }

// maxKept is the longest line or message with text of the limit: JSON writes a
// byte as six at most, and around it are names, numbers and a signature.
func (w *hostWriter) maxKept() int { return 6*w.limit + 256<<10 }

// Write ends the exchange, by an error, where it has enough.
func (w *hostWriter) Write(p []byte) (n int, err error) {
	w.WriteHeader(http.StatusOK)
	stream := mediaType(w.header) == "text/event-stream"
	for n = len(p); len(p) > 0; {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		if !stream {
			line, rest, ended = p, nil, false
		}
		if w.kept.Len()+len(line) > w.maxKept() {
			w.full = true
			return 0, errHostFull
		}
		w.kept.Write(line)
		if ended {
			w.text.see(w.kept.Bytes())
			w.kept.Reset()
		}
		if w.text.Len() > w.limit || len(w.text.data) > w.maxKept() {
			w.full = true
			return 0, errHostFull
		}
		p = rest
	}
	return n, nil
}

// FlushError lets http.ResponseController flush: there is nothing to do.
func (w *hostWriter) FlushError() error { return nil }

// answer returns the text of what the exchange wrote.
func (w *hostWriter) answer(whole bool, ctx context.Context, gr *Grant, m *hostMeter) (HostAnswer, error) {
	fault := &HostError{Code: cmp.Or(gr.Failure(), dreamcore.FailUnknown), Status: w.status, Over: m.over}
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
	var a HostAnswer
	if mediaType(w.header) == "text/event-stream" {
		w.text.see(w.kept.Bytes()) // a last line, and event, without an end
		w.text.end()
		a = HostAnswer{Text: w.text.String(), Stop: w.text.stop}
	} else {
		a = textOfMessage(w.kept.Bytes())
	}
	if w.full && len(a.Text) <= w.limit {
		return HostAnswer{}, fault // a line without text
	}
	a.Text = strings.ToValidUTF8(a.Text, "\uFFFD")
	return a, nil
}

// hostText joins the text of a stream of events. Each member of an event is
// read for itself: one of an unexpected type takes no other with it.
type hostText struct {
	strings.Builder
	stop string
	data []byte // of the unfinished event
}

// see reads a line of the stream, without its LF. It takes what the standard of
// server-sent events allows, as the meter does: data in several lines, and CR
// as the end of a line.
func (t *hostText) see(line []byte) {
	line = bytes.TrimSuffix(bytes.TrimPrefix(line, []byte(byteOrderMark)), []byte("\r"))
	for part := range bytes.SplitSeq(line, []byte("\r")) {
		if len(part) == 0 {
			t.end()
		} else if value, ok := bytes.CutPrefix(part, []byte("data:")); ok {
			t.data = append(append(t.data, bytes.TrimPrefix(value, []byte(" "))...), '\n')
		}
	}
}

// end reads the event whose lines have been seen.
func (t *hostText) end() {
	event := members(t.data)
	t.data = t.data[:0]
	switch textOf(event["type"]) {
	case "content_block_start":
		if block := members(event["content_block"]); textOf(block["type"]) == "text" {
			t.WriteString(textOf(block["text"]))
		}
	case "content_block_delta":
		if delta := members(event["delta"]); textOf(delta["type"]) == "text_delta" {
			t.WriteString(textOf(delta["text"]))
		}
	case "message_delta":
		t.stop = cmp.Or(textOf(members(event["delta"])["stop_reason"]), t.stop)
	}
}

// textOfMessage joins the text of an answer in one piece.
func textOfMessage(body []byte) (a HostAnswer) {
	message := members(body)
	a.Stop = textOf(message["stop_reason"])
	var blocks []json.RawMessage
	if json.Unmarshal(message["content"], &blocks) != nil {
		return a
	}
	var text strings.Builder
	for _, raw := range blocks {
		if block := members(raw); textOf(block["type"]) == "text" {
			text.WriteString(textOf(block["text"]))
		}
	}
	a.Text = text.String()
	return a
}
