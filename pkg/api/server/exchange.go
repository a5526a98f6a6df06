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
	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

// exchange is one request and its response, for the endpoints and the log. It
// is also the ResponseWriter.
type exchange struct {
	*response.Writer
	limits Limits
	log    *slog.Logger // with the request's id
	err    error        // error for the log
	early  bool         // refused before the secret was checked
	cut    error        // why the response is incomplete; the connection must then be closed
}

// serve handles every request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	x := &exchange{Writer: response.New(w, s.limits.WriteTimeout), limits: s.limits}
	id := requestID()
	x.log = s.log.With("request", id)
	x.Header().Set("X-Request-Id", id)
	x.Header().Set("X-Content-Type-Options", "nosniff")
	found, ok := s.currentRoutes().find(r.Host, r.URL.Path)
	defer s.account(x, r, found)
	defer x.recover(r)
	switch {
	case !ok:
		x.early = true
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found", Hint: "check GET /health"})
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
		s.dispatch(x, r, found)
	}
	if x.cut != nil {
		panic(http.ErrAbortHandler) // a client that still reads must not mistake this for the end
	}
}

// dispatch calls the endpoint if the body's encoding is supported.
func (s *Server) dispatch(x *exchange, r *http.Request, found route) {
	if err := checkEncoding(r); err != nil {
		x.Header().Set("Accept-Encoding", "identity") // RFC 7694
		x.refuse(r, err)
		return
	}
	found.endpoint.serve(x, r)
}

// auditRefusal records a request with a missing or wrong secret.
func (s *Server) auditRefusal(r *http.Request) {
	s.cfg.Audit.Record(audit.Entry{
		Event: audit.EventAuth, Verdict: audit.Refused, Status: http.StatusUnauthorized,
		Method: r.Method, Target: r.URL.Path, Reason: "missing or wrong secret, from " + r.RemoteAddr,
	})
}

// recover turns a panic into an error response or, if the response has begun,
// cuts the connection, so that the client sees that the response is incomplete.
func (x *exchange) recover(r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	x.err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
	if x.Status() != 0 {
		panic(http.ErrAbortHandler)
	}
	x.refuse(r, x.err)
}

// account writes the access log, without secrets, prompts and queries.
func (s *Server) account(x *exchange, r *http.Request, found route) {
	level := slog.LevelInfo
	if x.early {
		ok, suppressed := s.refusals.admit(r.RemoteAddr, time.Now())
		s.logSuppressed(suppressed)
		if !ok {
			return
		}
	}
	attrs := []slog.Attr{
		slog.String("method", clip(r.Method)), slog.Int("status", x.Status()), slog.Int64("bytes", x.Bytes()),
		slog.Duration("duration", x.Duration()),
	}
	if found.endpoint == nil {
		attrs = append(attrs, slog.String("path", clip(r.URL.Path)))
	} else {
		attrs = append(attrs, slog.String("endpoint", found.name), slog.String("form", string(found.form)))
		if found.quiet && x.Status() < http.StatusBadRequest {
			level = slog.LevelDebug
		}
	}
	if x.cut != nil {
		attrs = append(attrs, slog.Any("cut", x.cut))
	}
	if x.err != nil {
		attrs = append(attrs, slog.Any("error", x.err), slog.String("hint", dreamcore.HintOf(x.err)))
		// Client errors are no fault of the service; all other errors are,
		// regardless of their status.
		if x.Status() < http.StatusBadRequest || x.Status() >= http.StatusInternalServerError {
			level = slog.LevelError
		}
	}
	x.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// logSuppressed logs how many refused requests were not logged.
func (s *Server) logSuppressed(n int64) {
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
