package server

import (
	"cmp"
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
	limits  Limits
	client  string                    // its address
	log     *slog.Logger              // with the request's id
	err     error                     // error for the log
	lang    func() dreamcore.Language // of the player behind the request
	early   bool                      // refused before the secret was checked
	linked  bool                      // admitted by a link instead of the secret
	expires time.Time                 // of the link; only if linked
	cut     error                     // why the response is incomplete; the connection must then be closed
}

// serve handles every request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	x := &exchange{Writer: response.New(w, s.limits.WriteTimeout), limits: s.limits, client: clientAddress(r, s.cfg.Proxies), lang: func() dreamcore.Language { return s.language(r) }}
	id := cmp.Or(clientRequestID(r.Header), requestID())
	x.log = s.log.With("request", id)
	x.Header().Set(RequestHeader, id)
	x.Header().Set("X-Content-Type-Options", "nosniff")
	if s.Draining() {
		x.Header().Set("Connection", "close")
	}
	found, ok := s.currentRoutes().find(r.Host, r.URL.Path)
	defer s.account(x, r, found)
	defer x.recover(r)
	if ok && found.linked {
		s.allowOrigin(x, r)
	}
	switch {
	case !ok:
		x.early = true
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found", Hint: "check GET /health"})
	case found.linked && s.isPreflight(r):
		x.early = true
		s.answerPreflight(x, r)
	case !slices.Contains(found.methods, r.Method):
		x.early = true
		x.Header().Set("Allow", strings.Join(found.methods, ", "))
		x.refuse(r, &dreamcore.Error{Code: codeMethod, Message: "Method not allowed", Hint: "use " + found.methods[0]})
	case !s.authorized(x, r, found):
		x.early = true
		s.auditRefusal(x, r)
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

// about names the user and the project of the request in the log; the project may
// be "".
func (x *exchange) about(user dreamcore.UserID, project dreamcore.ProjectID) {
	x.log = x.log.With("user", string(user))
	if project != "" {
		x.log = x.log.With("project", string(project))
	}
}

// dispatch calls the endpoint if the body's encoding is supported.
func (s *Server) dispatch(x *exchange, r *http.Request, found route) {
	if err := checkEncoding(r); err != nil {
		x.Header().Set("Accept-Encoding", "identity") // RFC 7694
		x.refuse(r, err)
		return
	}
	if err := s.checkResidence(r, found); err != nil {
		x.refuse(r, err)
		return
	}
	found.endpoint.serve(x, r)
}

// auditRefusal records a request with a missing or wrong secret.
func (s *Server) auditRefusal(x *exchange, r *http.Request) {
	s.cfg.Audit.Record(audit.Entry{
		Event: audit.EventAuth, Verdict: audit.Refused, Status: http.StatusUnauthorized,
		Method: r.Method, Target: r.URL.Path, Reason: "missing or wrong secret, from " + x.client,
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
	if s.cfg.Observe != nil {
		name := ""
		if found.endpoint != nil {
			name = found.name
		}
		s.cfg.Observe(name, x.Status())
	}
	level := slog.LevelInfo
	if x.early {
		ok, suppressed := s.refusals.admit(x.client, time.Now())
		s.logSuppressed(suppressed)
		if !ok {
			return
		}
	}
	attrs := []slog.Attr{
		slog.String("method", clip(r.Method)), slog.String("client", clip(x.client)), slog.Int("status", x.Status()), slog.Int64("bytes", x.Bytes()),
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
		if reason := dreamcore.ReasonOf(x.err); reason != "" {
			attrs = append(attrs, slog.Any("reason", reason))
		}
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
