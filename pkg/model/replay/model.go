package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Model is an http.Handler that answers from a Script. It is safe for concurrent
// use, has no goroutines and needs no Close: a waiting request ends with its
// context.
type Model struct {
	script   *Script
	requests atomic.Uint64

	mu     sync.Mutex
	failed map[spot]int // guarded by mu: number of failures of each turn
}

// New returns a model that plays s.
func New(s *Script) *Model { return &Model{script: s, failed: map[spot]int{}} }

// exchange is one request and the writer of its response.
type exchange struct {
	*request
	id  string
	ctx context.Context
	w   http.ResponseWriter
}

// ServeHTTP answers POST /v1/messages and /v1/messages/count_tokens, and HEAD on
// any path; everything else is the API's 404.
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
			write(w, http.StatusOK, encode(map[string]int{"input_tokens": tokens(req.bytes)}))
			return
		}
		req.prompt = r.Header.Get(dreamcore.PromptHeader)
		m.answer(&exchange{request: req, id: fmt.Sprintf("msg_replay_%06d", number), ctx: r.Context(), w: w})
	default:
		writeError(w, http.StatusNotFound, "", "the replay model has no route "+r.Method+" "+clip(r.URL.Path))
	}
}

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
	at, human, t := m.script.locate(x.request)
	if !wait(x.ctx, t.Delay) {
		return
	}
	fail := m.failNow(at, t)
	if fail.Status != 0 {
		for name, value := range fail.Headers {
			x.w.Header().Set(name, value)
		}
		writeError(x.w, fail.Status, fail.Type, fail.Message)
		return
	}
	a := turnAnswer(x.id, x.request, at, human, t)
	if x.Stream {
		x.sayStream(a, fail)
		return
	}
	x.sayWhole(a, fail)
}

// failNow counts the failures of a turn and returns the one to play; it is empty
// if the turn succeeds.
func (m *Model) failNow(at spot, t *turn) Fail {
	if t.Fail == nil {
		return Fail{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.Fail.Times > 0 && m.failed[at] >= t.Fail.Times {
		return Fail{}
	}
	m.failed[at]++
	return *t.Fail
}

func (x *exchange) sayStream(a *answer, fail Fail) {
	s := newStream(x.w)
	if fail.Garbage {
		s.raw([]byte("data: this is not JSON\n\nneither: is this\n\n{\"type\":\n\n"))
		return
	}
	s.start(a)
	for i, block := range a.blocks {
		s.event("content_block_start", "index", i, "content_block", block.start)
		parts := block.deltas
		if i == 0 && fail.Stall && !x.stall(fail) {
			return
		}
		cut := fail.Cut && i == len(a.blocks)-1
		if cut {
			parts = parts[:max(1, len(parts)/2)]
		}
		for _, part := range parts {
			s.event("content_block_delta", "index", i, "delta", part)
		}
		if cut {
			panic(http.ErrAbortHandler) // closes the connection before the end of the response
		}
		if s.err != nil || x.ctx.Err() != nil {
			return
		}
		s.event("content_block_stop", "index", i)
	}
	s.finish(a)
}

// sayWhole sends an answer that is not streamed. Failures are silence before it,
// half of it, or something else in its place.
func (x *exchange) sayWhole(a *answer, fail Fail) {
	body := a.message()
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
func (x *exchange) stall(fail Fail) bool {
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

// errorTypes maps statuses to the API's error types, other than the two general
// ones.
var errorTypes = map[int]string{
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
	fallback := "api_error"
	if status < 500 {
		fallback = "invalid_request_error"
	}
	kind = cmp.Or(kind, errorTypes[status], fallback)
	message = cmp.Or(message, "the script requires this turn to fail")
	write(w, status, object("error", "error", object(kind, "message", message), "request_id", w.Header().Get("Request-Id")))
}

// write ignores errors: the client may have disconnected.
func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
