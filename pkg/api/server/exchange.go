package server

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// exchange is one request with its answer, as the endpoints and the log see
// it. It is the ResponseWriter too.
type exchange struct {
	http.ResponseWriter
	control *http.ResponseController
	limits  Limits
	log     *slog.Logger // with the id
	id      string       // of the request
	began   time.Time
	status  int   // 0 until the header is written
	err     error // what was refused or failed, for the log
	early   bool  // refused before the secret was found to be right
	cut     error // why the answer has no proper end: the connection is to be closed
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter. A client that takes nothing for the
// whole of Limits.WriteTimeout is dropped.
func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	x.extendWrite()
	return x.ResponseWriter.Write(b)
}

func (x *exchange) extendWrite() {
	_ = x.control.SetWriteDeadline(time.Now().Add(x.limits.WriteTimeout)) // not there in tests without a connection
}

// serve is the way of every request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	x := &exchange{
		ResponseWriter: w, control: http.NewResponseController(w), limits: s.limits,
		id: requestID(), began: time.Now(),
	}
	x.log = s.log.With("request", x.id)
	// The write deadline of the connection's last answer must not cut this one.
	x.extendWrite()
	x.Header().Set("X-Request-Id", x.id)
	x.Header().Set("X-Content-Type-Options", "nosniff")
	found, ok := s.currentRoutes().find(r.Host, r.URL.Path)
	defer s.account(x, r, found)
	defer x.recover(r)
	switch {
	case !ok:
		x.early = true
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found", Hint: "GET /health tells whether the service is up"})
	case !slices.Contains(found.methods, r.Method):
		x.early = true
		x.Header().Set("Allow", strings.Join(found.methods, ", "))
		x.refuse(r, &dreamcore.Error{Code: codeMethod, Message: "Method not allowed", Hint: "use " + found.methods[0]})
	case !found.open && !authorized(r.Header, s.cfg.Secrets()):
		x.early = true
		s.auditRefusal(r)
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeUnauthorized, Message: "Unauthorized"})
	default:
		for name, value := range found.values {
			r.SetPathValue(name, value)
		}
		s.answerTo(x, r, found)
	}
	if x.cut != nil {
		panic(http.ErrAbortHandler) // a client that still reads must not take this for the end
	}
}

// answerTo lets the endpoint answer, if its body can be read.
func (s *Server) answerTo(x *exchange, r *http.Request, found route) {
	if err := checkEncoding(r); err != nil {
		x.Header().Set("Accept-Encoding", "identity") // RFC 7694
		x.refuse(r, err)
		return
	}
	found.endpoint.serve(x, r)
}

// auditRefusal writes down a request with no secret or a wrong one.
func (s *Server) auditRefusal(r *http.Request) {
	s.cfg.Audit.Record(audit.Entry{
		Event: audit.EventAuth, Verdict: audit.Refused, Status: http.StatusUnauthorized,
		Method: r.Method, Target: r.URL.Path, Reason: "no or a wrong secret, from " + r.RemoteAddr,
	})
}

// recover turns a panic into an answer, or, where an answer has begun, into a
// cut connection, so that the client does not take it for a whole one.
func (x *exchange) recover(r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	x.err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
	if x.status != 0 {
		panic(http.ErrAbortHandler)
	}
	x.refuse(r, x.err)
}

// account writes the access log. It names no secret, no prompt and no query.
func (s *Server) account(x *exchange, r *http.Request, found route) {
	level := slog.LevelInfo
	if x.early {
		ok, suppressed := s.refusals.admit(r.RemoteAddr, time.Now())
		s.tellSuppressed(suppressed)
		if !ok {
			return
		}
	}
	attrs := []slog.Attr{
		slog.String("method", clip(r.Method)), slog.Int("status", x.status),
		slog.Duration("duration", time.Since(x.began)),
	}
	if found.endpoint == nil {
		attrs = append(attrs, slog.String("path", clip(r.URL.Path)))
	} else {
		attrs = append(attrs, slog.String("endpoint", found.name), slog.String("form", string(found.form)))
		if found.quiet && x.status < http.StatusBadRequest {
			level = slog.LevelDebug
		}
	}
	if x.cut != nil {
		attrs = append(attrs, slog.Any("cut", x.cut))
	}
	if x.err != nil {
		attrs = append(attrs, slog.Any("error", x.err), slog.String("hint", dreamcore.HintOf(x.err)))
		// What a client did wrong is no fault of the service; all else is,
		// whatever status it came with.
		if x.status < http.StatusBadRequest || x.status >= http.StatusInternalServerError {
			level = slog.LevelError
		}
	}
	x.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// tellSuppressed logs that refused requests were not logged.
func (s *Server) tellSuppressed(n int64) {
	if n > 0 {
		s.log.Warn(refusalsSummaryMessage, refusalsSuppressedMember, n)
	}
}

// clip shortens foreign text for the log.
func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

func requestID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
