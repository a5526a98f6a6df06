package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Previews serves games to browsers; *preview.Service implements it. The games
// are hostile, so their hosts are separate from the service's.
type Previews interface {
	http.Handler
	// Serves reports whether all requests for a host belong to previews.
	Serves(host string) bool
	// Link returns a temporary address of a game; a lifetime of 0 selects the
	// default. The error is CodeNotFound if the project does not exist and
	// CodeInvalid if the lifetime is out of bounds.
	Link(user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error)
}

// previewsFirst routes the hosts of previews to Previews before anything else is
// checked: endpoints and secrets do not exist on those hosts.
func (s *Server) previewsFirst(next http.Handler) http.Handler {
	previews := s.cfg.Previews
	if previews == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if previews.Serves(r.Host) {
			previews.ServeHTTP(w, r)
			return
		}
		if headerBytes(r) > s.limits.MaxHeaderBytes+headerSlop {
			w.Header().Set("Connection", "close")
			http.Error(w, "431 Request Header Fields Too Large", http.StatusRequestHeaderFieldsTooLarge)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// previewHeaderBytes is the maximum size of headers of requests for games: a
// browser sends up to 180 cookies of 4 KiB, which any game of the domain may have
// set.
const previewHeaderBytes = 768 << 10

// headerSlop is what net/http accepts beyond MaxHeaderBytes.
const headerSlop = 4096

// maxHeaderBytes returns the listener's limit, which applies before the host is
// known. previewsFirst enforces the lower limit of other hosts.
func (s *Server) maxHeaderBytes() int {
	if s.cfg.Previews == nil {
		return s.limits.MaxHeaderBytes
	}
	return max(s.limits.MaxHeaderBytes, previewHeaderBytes)
}

// HeaderLimit returns the default limit of a listener, with or without previews.
func HeaderLimit(previews bool) int {
	if previews {
		return previewHeaderBytes
	}
	return DefaultMaxHeaderBytes
}

// headerBytes returns the approximate size of a request's header.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// readProject reads a request about a project, with the other named fields. On failure
// it sends an error response and returns false.
func (x *exchange) readProject(r *http.Request, others ...string) (user dreamcore.UserID, project dreamcore.ProjectID, fields map[string]json.RawMessage, ok bool) {
	body, ok := x.readBody(r)
	if !ok {
		return user, project, nil, false
	}
	fields = map[string]json.RawMessage{"user_id": nil, "project_id": nil}
	for _, name := range others {
		fields[name] = nil
	}
	err := decodeObject(body, fields)
	if err != nil {
		err = invalidJSON(err)
	} else if user, err = userField(fields["user_id"]); err == nil {
		project, err = projectField(fields["project_id"])
	}
	if err != nil {
		x.fail(err)
		return user, project, nil, false
	}
	x.about(user, project)
	return user, project, fields, true
}

// previewLink returns an address of a game for browsers.
func (s *Server) previewLink(x *exchange, r *http.Request) {
	user, project, fields, ok := x.readProject(r, "expires_in")
	if !ok {
		return
	}
	lifetime, err := seconds(fields["expires_in"], "leave it out for 24 hours")
	if err != nil {
		x.fail(err)
		return
	}
	if s.cfg.Previews == nil {
		x.fail(&dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Previews are off", Hint: "set preview_domain or preview_listen for dreamcore serve"})
		return
	}
	address, expires, err := s.cfg.Previews.Link(user, project, lifetime)
	if err != nil {
		x.fail(rename(err, dreamcore.CodeNotFound, "Project not found"))
		return
	}
	x.answer(http.StatusOK, struct {
		URL     string    `json:"url"`
		Expires time.Time `json:"expires"`
	}{address, expires.UTC()})
}

// maxSeconds exceeds any valid lifetime and prevents overflows.
const maxSeconds = 1 << 30

// seconds parses the member expires_in, a whole number of seconds; missing and null
// give 0.
func seconds(raw json.RawMessage, hint string) (time.Duration, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 1 || n > maxSeconds {
		return 0, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid expires_in: must be a whole number of seconds", Hint: hint}
	}
	return time.Duration(n) * time.Second, nil
}
