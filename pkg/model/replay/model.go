package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ModelID is the model that /v1/models lists and that answers a request which
// names none.
const ModelID = "claude-replay"

// Model is an http.Handler that answers from a Script. It is safe for
// concurrent use, holds no goroutines and needs no Close: a request that
// waits ends with its context.
type Model struct {
	script   *Script
	log      *slog.Logger
	requests atomic.Uint64

	mu     sync.Mutex
	failed map[spot]int // how often each turn has failed; guarded by mu
}

// spot names a turn of the script, of a conversation or of a prompt endpoint.
type spot struct {
	conversation, turn int
	prompt             string
}

// Option changes a Model that New makes.
type Option func(*Model)

// WithLogger makes the model log each answer at debug level. Without it the
// model is silent.
func WithLogger(log *slog.Logger) Option {
	return func(m *Model) { m.log = log }
}

// New returns the model that plays s.
func New(s *Script, opts ...Option) *Model {
	m := &Model{script: s, log: slog.New(slog.DiscardHandler), failed: map[spot]int{}}
	for _, o := range opts {
		o(m)
	}
	return m
}

// exchange is one request and the writer of its response.
type exchange struct {
	*request
	id     string
	prompt string // the prompt endpoint that asks; "" for the agent
	ctx    context.Context
	w      http.ResponseWriter
}

// ServeHTTP answers POST /v1/messages and /v1/messages/count_tokens, GET
// /v1/models, and HEAD on any path; everything else is the API's 404.
func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	number := m.requests.Add(1)
	w.Header().Set("Request-Id", fmt.Sprintf("req_replay_%06d", number))
	switch route := r.Method + " " + r.URL.Path; {
	case r.Method == http.MethodHead:
		w.WriteHeader(http.StatusOK)
	case route == "POST /v1/messages", route == "POST /v1/messages/count_tokens":
		req, ok := readRequest(w, r)
		if !ok {
			return
		}
		if strings.HasSuffix(route, "count_tokens") {
			writeJSON(w, http.StatusOK, map[string]int{"input_tokens": tokens(req.bytes)})
			return
		}
		m.answer(&exchange{
			request: req, id: fmt.Sprintf("msg_replay_%06d", number), prompt: r.Header.Get(dreamcore.PromptHeader),
			ctx: r.Context(), w: w,
		})
	case route == "GET /v1/models":
		writeJSON(w, http.StatusOK, map[string]any{"data": []any{modelForm}, "has_more": false, "first_id": ModelID, "last_id": ModelID})
	default:
		writeError(w, http.StatusNotFound, "", "the replay model has no route "+r.Method+" "+clip(r.URL.Path))
	}
}

// modelForm is the one model, as the API lists it.
var modelForm = struct {
	Type    string `json:"type"`
	ID      string `json:"id"`
	Name    string `json:"display_name"`
	Created string `json:"created_at"`
}{"model", ModelID, "Replay", "2025-01-01T00:00:00Z"}

// readRequest answers by itself and reports false when there is no request.
func readRequest(w http.ResponseWriter, r *http.Request) (*request, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			writeError(w, http.StatusRequestEntityTooLarge, "", "Request exceeds the maximum size")
			return nil, false
		}
		writeError(w, http.StatusBadRequest, "", "the request body could not be read")
		return nil, false
	}
	req, err := parseRequest(body)
	if err != nil {
		writeError(w, http.StatusBadRequest, "", clip(err.Error()))
		return nil, false
	}
	return req, true
}

// answer plays the turn of the script that x asks for, or its failure.
func (m *Model) answer(x *exchange) {
	if x.prompt != "" {
		m.answerPrompt(x)
		return
	}
	if x.isSide() {
		x.say(textAnswer(x.id, x.request, sideText), nil)
		return
	}
	p, t := m.script.locate(x.request)
	log := m.log.With("prompt", p.human, "conversation", p.conversation, "turn", p.turn)
	if t == nil {
		log.Debug("replay model: past the last turn")
		x.say(textAnswer(x.id, x.request, endText), nil)
		return
	}
	m.play(x, log, t, spot{conversation: p.conversation, turn: p.turn}, func() *answer { return turnAnswer(x.id, x.request, p, t) })
}

// play plays a turn, or its failure.
func (m *Model) play(x *exchange, log *slog.Logger, t *turn, at spot, good func() *answer) {
	if !wait(x.ctx, t.delay) {
		return
	}
	fail := m.failNow(at, t)
	log.Debug("replay model: answer", "fails", fail != nil)
	if fail != nil && fail.Status != 0 {
		for name, value := range fail.Headers {
			x.w.Header().Set(name, value)
		}
		writeError(x.w, fail.Status, fail.Type, fail.Message)
		return
	}
	x.say(good(), fail)
}

// failNow counts the failures of a turn and returns the one to play, if any.
func (m *Model) failNow(at spot, t *turn) *Fail {
	if t.fail == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.fail.Times > 0 && m.failed[at] >= t.fail.Times {
		return nil
	}
	m.failed[at]++
	return t.fail
}

// say sends a as a stream or whole, as the client asked; fail may be nil.
func (x *exchange) say(a *answer, fail *Fail) {
	if fail == nil {
		fail = &Fail{}
	}
	if x.Stream {
		x.sayStream(a, fail)
		return
	}
	x.sayWhole(a, fail)
}

func (x *exchange) sayStream(a *answer, fail *Fail) {
	s := newStream(x.w)
	if fail.Garbage {
		s.raw([]byte("data: this is not JSON\n\nneither: is this\n\n{\"type\":\n\n"))
		return
	}
	s.start(a)
	for i, block := range a.blocks {
		parts := s.open(i, block)
		if i == 0 && fail.Stall && !x.stall(fail) {
			return
		}
		cut := fail.Cut && i == len(a.blocks)-1
		if cut {
			parts = parts[:max(1, len(parts)/2)]
		}
		for _, part := range parts {
			s.send(i, part)
		}
		if cut {
			panic(http.ErrAbortHandler) // closes the connection without the end of the response
		}
		if s.err != nil || x.ctx.Err() != nil {
			return
		}
		s.close(i)
	}
	s.finish(a)
}

// sayWhole plays the failures on an answer that is not streamed: silence
// before it, half of it, or something else in its place.
func (x *exchange) sayWhole(a *answer, fail *Fail) {
	body := encode(a.form())
	switch {
	case fail.Garbage:
		body = []byte("this is not JSON")
	case fail.Stall && !x.stall(fail):
		return
	case fail.Cut:
		x.w.Header().Set("Content-Type", "application/json")
		x.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = x.w.Write(body[:len(body)/2])
		_ = http.NewResponseController(x.w).Flush()
		panic(http.ErrAbortHandler)
	}
	write(x.w, http.StatusOK, body)
}

// stall is silent as long as fail says and reports whether the client is
// still there.
func (x *exchange) stall(fail *Fail) bool {
	if fail.StallFor > 0 {
		return wait(x.ctx, fail.StallFor)
	}
	<-x.ctx.Done()
	return false
}

// wait pauses for d and reports whether ctx outlived it.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errorTypes are the API's names for its statuses.
var errorTypes = map[int]string{
	http.StatusBadRequest:            "invalid_request_error",
	http.StatusUnauthorized:          "authentication_error",
	http.StatusForbidden:             "permission_error",
	http.StatusNotFound:              "not_found_error",
	http.StatusRequestEntityTooLarge: "request_too_large",
	http.StatusTooManyRequests:       "rate_limit_error",
	http.StatusGatewayTimeout:        "timeout_error",
	529:                              "overloaded_error",
}

// writeError answers in the API's form. Type and message have defaults.
func writeError(w http.ResponseWriter, status int, kind, message string) {
	if kind == "" {
		kind = errorTypes[status]
	}
	if kind == "" && status < 500 {
		kind = "invalid_request_error"
	}
	if kind == "" {
		kind = "api_error"
	}
	if message == "" {
		message = "the script makes this turn fail"
	}
	type detail struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	writeJSON(w, status, struct {
		Type      string `json:"type"`
		Error     detail `json:"error"`
		RequestID string `json:"request_id"`
	}{"error", detail{kind, message}, w.Header().Get("Request-Id")})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	write(w, status, encode(v))
}

// write ignores what Write returns: a client that is gone wants no answer.
func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
