package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

const (
	messagesPath    = "/v1/messages"
	countTokensPath = "/v1/messages/count_tokens"
)

// serve answers one request of the sandbox.
func (s *Socket) serve(w http.ResponseWriter, r *http.Request) {
	defer s.logPanic()
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(s.gw.cfg.BodyReadLimit))
	_ = rc.SetWriteDeadline(time.Now().Add(s.gw.cfg.WriteLimit))
	if r.Method == http.MethodHead && r.RequestURI == "/" {
		return // the CLI checks the connection at its start: 200
	}
	gr, awaited := s.authenticate(r.Header)
	if path, _, _ := strings.Cut(r.RequestURI, "?"); r.Method == http.MethodPost && path == countTokensPath && (awaited || gr != nil && gr.rehearses.Load()) {
		s.estimate(w, r)
		return
	}
	if gr == nil {
		s.gw.cfg.Logger.Log(r.Context(), s.wrongTokens.level(slog.LevelWarn), "a sandbox used a wrong token", "path", s.path)
		s.record(audit.Entry{Event: audit.EventToken, Method: r.Method, Target: r.RequestURI, Verdict: audit.Refused, Status: 401, Reason: "wrong token"})
		never(401, "Invalid token.").write(w)
		return
	}
	call, refusal := route(r)
	if refusal == nil {
		refusal = gr.begin()
	}
	if refusal != nil {
		gr.warn("request of a sandbox refused", "status", refusal.status, "reason", refusal.message)
		gr.record(audit.Entry{Event: audit.EventModel, Method: r.Method, Target: r.RequestURI, Verdict: audit.Refused, Status: refusal.status, Reason: refusal.message})
		refusal.write(w)
		return
	}
	defer gr.end()
	gr.rehearses.Store(false)
	x := &exchange{gw: s.gw, grant: gr, w: w, rc: rc, client: r.Context()}
	x.serve(r, call)
}

// logPanic logs a panic of a request and aborts its answer. The value itself is
// not logged: it could contain data of the request.
func (s *Socket) logPanic() {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		kind := fmt.Sprintf("%T", v)
		if e, ok := v.(runtime.Error); ok {
			kind = e.Error()
		}
		s.gw.cfg.Logger.Error("the model gateway panicked", "kind", kind, "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// estimate answers with an estimate of the tokens of a request.
func (s *Socket) estimate(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, s.gw.cfg.MaxBody))
	if err != nil {
		never(400, "The body is too large or incomplete.").write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"input_tokens":%d}`, n/bytesPerToken)
}

// authenticate returns the grant of this socket whose token matches every
// credential of the request, or nil; awaited reports whether it is that of Await.
func (s *Socket) authenticate(h http.Header) (gr *Grant, awaited bool) {
	given := slices.Clone(h.Values("X-Api-Key"))
	for _, v := range h.Values("Authorization") {
		token, ok := strings.CutPrefix(v, "Bearer ")
		if !ok {
			return nil, false
		}
		given = append(given, token)
	}
	if len(given) == 0 {
		return nil, false
	}
	for _, v := range given[1:] {
		if v != given[0] {
			return nil, false
		}
	}
	digest := sha256.Sum256([]byte(given[0]))
	s.mu.Lock()
	defer s.mu.Unlock()
	for g := range s.grants {
		if subtle.ConstantTimeCompare(g.digest[:], digest[:]) == 1 {
			gr = g
		}
	}
	return gr, gr == nil && s.awaits(digest)
}

// route accepts two kinds of requests. It compares the request target as it was
// sent, before cleaning, decoding or resolving.
func route(r *http.Request) (*Call, *apiError) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	switch {
	case path != messagesPath && path != countTokensPath:
		return nil, never(404, "Not found.")
	case r.Method != http.MethodPost:
		return nil, never(405, "Method not allowed.")
	case query != "" && query != "beta=true":
		return nil, never(400, "Unknown query.")
	case len(r.Header["Upgrade"]) > 0:
		return nil, never(400, "No upgrades.")
	case !slices.Contains([]string{"", "identity"}, r.Header.Get("Content-Encoding")):
		return nil, never(415, "The body must not be encoded.")
	}
	return &Call{Path: path, Query: query, Header: requestHeader(r.Header)}, nil
}

// readBody reads the request's body into call, within limits of size, memory
// and time, and checks what it requests. The caller must call free in any case.
func (x *exchange) readBody(r *http.Request, call *Call) (p peek, free func(), refusal *apiError) {
	body := &bodyBuffer{grant: x.grant, limit: x.gw.cfg.MaxBody}
	free = body.free
	err := body.read(r)
	switch {
	case errors.Is(err, errBodySize):
		x.drain(r)
		return p, free, never(413, "The request is too large.")
	case errors.Is(err, errBodyMemory):
		x.drain(r)
		return p, free, &apiError{status: 429, message: "Too many large requests at one time.", retry: retryYes, after: "1"}
	case err != nil:
		return p, free, never(400, "The body could not be read.")
	}
	call.Body = body.buf.Bytes()
	p, err = peekBody(call.Body)
	if err != nil {
		return p, free, never(400, "Invalid request: "+err.Error()+".")
	}
	call.Model, call.Stream = p.model, p.stream
	external, parts := inspect(call.Body)
	if external && !x.gw.cfg.ServerTools {
		return p, free, never(403, externalMessage)
	}
	if name := surchargedMember(call.Body); name != "" {
		return p, free, never(403, fmt.Sprintf(surchargeMessage, name))
	}
	parts.documents = parts.documents || external // the API may fetch documents of any size
	x.use.input, x.use.hour = promptBound(call.Body, parts), asksForHour(call.Body)
	return p, free, nil
}

// drain discards the remaining body, within bounds of size and time: a client
// reads the answer only after it has written its request.
func (x *exchange) drain(r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, 2*x.gw.cfg.MaxBody)
}

var (
	errBodySize   = errors.New("body over its limit")
	errBodyMemory = errors.New("bodies of the grant over their limit")
)

// bodyBuffer is a body in memory that counts against the limits of its grant.
type bodyBuffer struct {
	grant    *Grant
	limit    int64
	buf      bytes.Buffer
	reserved int64
}

// bodyStep is how much is reserved and read at a time. The Content-Length that
// the sandbox declares is not trusted for allocating more than two steps, until
// it has sent bodyGrow bytes; then it is, since a buffer that only doubles takes
// twice its body.
const (
	bodyStep = 64 << 10
	bodyGrow = 1 << 20
)

func (b *bodyBuffer) read(r *http.Request) error {
	if r.ContentLength > b.limit {
		return errBodySize
	}
	b.buf.Grow(int(min(max(r.ContentLength, 0), 2*bodyStep)) + bytes.MinRead)
	for {
		if !b.reserve(int64(b.buf.Len()) + bodyStep) {
			return errBodyMemory
		}
		if remaining := r.ContentLength - int64(b.buf.Len()); b.buf.Len() == bodyGrow && remaining > 0 {
			if !b.reserve(r.ContentLength + bytes.MinRead) {
				return errBodyMemory
			}
			b.buf.Grow(int(remaining) + bytes.MinRead)
		}
		n, err := io.CopyN(&b.buf, r.Body, bodyStep)
		if int64(b.buf.Len()) > b.limit {
			return errBodySize
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read body after %d bytes: %w", n, err)
		}
	}
}

// reserve reserves memory for a body of n bytes in total.
func (b *bodyBuffer) reserve(n int64) bool {
	if n <= b.reserved {
		return true
	}
	if !b.grant.reserve(n - b.reserved) {
		return false
	}
	b.reserved = n
	return true
}

func (b *bodyBuffer) free() {
	b.grant.release(b.reserved)
	b.reserved = 0
}
