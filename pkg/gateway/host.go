package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
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
	MaxAnswer int64         // bytes of the upstream's answer, events included
}

// HostAnswer is the text of a complete answer.
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
	own := &Gateway{cfg: g.cfg}
	own.upstream.Store(g.upstream.Load())
	own.cfg.HeaderLimit, own.cfg.AnswerLimit = call.TimeLimit, call.TimeLimit
	own.cfg.IdleLimit = min(own.cfg.IdleLimit, call.TimeLimit)
	own.cfg.MaxResponse = call.MaxAnswer
	own.cfg.Models = nil // which models a job may use is the sandbox's bound
	s := &Socket{gw: own, path: "prompt " + call.Name, grants: make(map[*Grant]struct{})}
	s.ctx, s.cancel = context.WithCancelCause(limited)
	defer s.cancel(errSocketClosed)

	meter := &hostMeter{Meter: call.Meter}
	if meter.Meter == nil {
		meter.Meter = freeMeter{}
	}
	gr := s.Grant(GrantOptions{Job: "prompt:" + call.Name, Meter: meter, User: call.User, Project: call.Project})
	out := &hostWriter{header: make(http.Header)}
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
	settle, err := m.Meter.Reserve(model, input, output)
	m.over, _ = errors.AsType[*dreamcore.OverBudget](err)
	return settle, err
}

// hostWriter keeps an answer in memory; the exchange bounds its size.
type hostWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *hostWriter) Header() http.Header { return w.header }

func (w *hostWriter) WriteHeader(status int) { w.status = cmp.Or(w.status, status) }

func (w *hostWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// FlushError lets http.ResponseController flush: there is nothing to do.
func (w *hostWriter) FlushError() error { return nil }

// answer reads the text out of what the exchange wrote.
func (w *hostWriter) answer(whole bool, ctx context.Context, gr *Grant, m *hostMeter) (HostAnswer, error) {
	fault := &HostError{Code: cmp.Or(gr.Failure(), dreamcore.FailUnknown), Status: w.status, Over: m.over}
	switch {
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
		a = textOfStream(w.body.Bytes())
	} else {
		a = textOfMessage(w.body.Bytes())
	}
	a.Text = strings.ToValidUTF8(a.Text, "\uFFFD")
	return a, nil
}

// textOfStream joins the text of a stream of events. Each member of an event is
// read for itself: one of an unexpected type takes no other with it.
func textOfStream(stream []byte) (a HostAnswer) {
	var text strings.Builder
	for data := range eventData(stream) {
		event := members(data)
		switch textOf(event["type"]) {
		case "content_block_start":
			block := members(event["content_block"])
			if textOf(block["type"]) == "text" {
				text.WriteString(textOf(block["text"]))
			}
		case "content_block_delta":
			delta := members(event["delta"])
			if textOf(delta["type"]) == "text_delta" {
				text.WriteString(textOf(delta["text"]))
			}
		case "message_delta":
			a.Stop = cmp.Or(textOf(members(event["delta"])["stop_reason"]), a.Stop)
		case "message_stop":
			a.Text = text.String()
			return a
		}
	}
	a.Text = text.String()
	return a
}

// eventData yields the data of each event of a stream, in the forms that the
// standard of server-sent events allows and the meter reads too.
func eventData(stream []byte) iter.Seq[[]byte] {
	stream = bytes.TrimPrefix(stream, []byte(byteOrderMark))
	stream = bytes.ReplaceAll(stream, []byte("\r\n"), []byte("\n"))
	stream = bytes.ReplaceAll(stream, []byte("\r"), []byte("\n"))
	return func(yield func([]byte) bool) {
		var data []byte
		for line := range bytes.Lines(append(stream, "\n\n"...)) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			if len(line) == 0 {
				if len(data) > 0 && !yield(data) {
					return
				}
				data = nil
				continue
			}
			if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
				data = append(append(data, bytes.TrimPrefix(value, []byte(" "))...), '\n')
			}
		}
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
