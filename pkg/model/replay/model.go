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

// ModelID is the model that /v1/models lists and that answers requests without a
// model.
const ModelID = "claude-replay"

// Model is an http.Handler that answers from a Script. It is safe for concurrent
// use, has no goroutines and needs no Close: a waiting request ends with its
// context.
type Model struct {
	script   *Script
	log      *slog.Logger
	requests atomic.Uint64

	mu     sync.Mutex
	failed map[spot]int // guarded by mu: number of failures of each turn
}

// spot identifies a turn of a conversation or of a prompt endpoint.
type spot struct {
	conversation, turn int
	prompt             string
}

// Option changes a Model that New makes.
type Option func(*Model)

// WithLogger makes the model log each answer at debug level.
func WithLogger(log *slog.Logger) Option {
	return func(m *Model) { m.log = log }
}

// New returns a model that plays s.
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
	prompt string // the prompt endpoint of the request; "" for the agent
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

// modelForm is the model in the form of the API's list.
var modelForm = struct {
	Type    string `json:"type"`
	ID      string `json:"id"`
	Name    string `json:"display_name"`
	Created string `json:"created_at"`
}{"model", ModelID, "Replay", "2025-01-01T00:00:00Z"}

// readRequest answers an invalid request itself and returns false.
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

// answer plays the turn of the script for x, or its failure.
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
		log.Debug("replay model: after the last turn")
		x.say(textAnswer(x.id, x.request, endText), nil)
		return
	}
	m.play(x, log, t, spot{conversation: p.conversation, turn: p.turn}, func() *answer { return turnAnswer(x.id, x.request, p, t) })
}

// play plays a turn, or its failure. good returns the successful answer.
func (m *Model) play(x *exchange, log *slog.Logger, t *turn, at spot, good func() *answer) {
	if !wait(x.ctx, t.Delay) {
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

// failNow counts the failures of a turn and returns the one to play, or nil.
func (m *Model) failNow(at spot, t *turn) *Fail {
	if t.Fail == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.Fail.Times > 0 && m.failed[at] >= t.Fail.Times {
		return nil
	}
	m.failed[at]++
	return t.Fail
}

// say sends a, as a stream if the client requested one; fail may be nil.
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
			panic(http.ErrAbortHandler) // closes the connection before the end of the response
		}
		if s.err != nil || x.ctx.Err() != nil {
			return
		}
		s.close(i)
	}
	s.finish(a)
}

// sayWhole sends an answer that is not streamed. Failures are silence before it,
// half of it, or something else in its place.
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

// stall waits as long as fail requires and reports whether the client is still
// connected.
func (x *exchange) stall(fail *Fail) bool {
	if fail.StallMillis > 0 {
		return wait(x.ctx, fail.StallMillis)
	}
	<-x.ctx.Done()
	return false
}

// wait pauses and reports whether ctx is still valid.
func wait(ctx context.Context, millis int) bool {
	if millis <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(time.Duration(millis) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errorTypes maps statuses to the API's error types.
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

// writeError answers with an error in the API's form. kind and message may be "".
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
		message = "the script requires this turn to fail"
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

// write ignores errors: the client may have disconnected.
func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
