package server

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Previews shows games to browsers; *preview.Service does. What it serves is
// hostile, so its hosts are none of the service's.
type Previews interface {
	http.Handler
	// Serves tells whether requests for a host belong to it, all of them.
	Serves(host string) bool
	// Link makes an address of a game that works for a while; 0 is the usual
	// one. CodeNotFound: there is no such project; CodeInvalid: the lifetime is
	// out of bounds.
	Link(user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error)
}

// previewsFirst gives the hosts of previews to them, before anything else is
// looked at: no endpoint answers there, and no secret counts.
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

// previewHeaderBytes is how large headers of requests for games may be: a
// browser sends up to 180 cookies of 4 KiB, which any game of the domain can
// have set.
const previewHeaderBytes = 768 << 10

// headerSlop is what net/http lets through beyond MaxHeaderBytes.
const headerSlop = 4096

// maxHeaderBytes is the limit of the listener, which is read before the host is
// known. previewsFirst holds all other hosts to theirs.
func (s *Server) maxHeaderBytes() int {
	if s.cfg.Previews == nil {
		return s.limits.MaxHeaderBytes
	}
	return max(s.limits.MaxHeaderBytes, previewHeaderBytes)
}

// headerBytes is about how large the header of a request was.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v) + len(": \r\n")
		}
	}
	return n
}

// previewLink answers with an address of a game for browsers.
func (s *Server) previewLink(x *exchange, r *http.Request) {
	body, ok := x.readBody(r)
	if !ok {
		return
	}
	fields := map[string]json.RawMessage{"user_id": nil, "project_id": nil, "expires_in": nil}
	if err := decodeObject(body, fields); err != nil {
		x.fail(invalidJSON(err))
		return
	}
	user, err := userField(fields["user_id"])
	if err != nil {
		x.fail(err)
		return
	}
	project, err := projectField(fields["project_id"])
	if err != nil {
		x.fail(err)
		return
	}
	lifetime, err := seconds(fields["expires_in"])
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

// maxSeconds is more than any lifetime; below it nothing overflows.
const maxSeconds = 1 << 30

// seconds is the value of a member with a whole number of seconds; missing and
// null give 0.
func seconds(raw json.RawMessage) (time.Duration, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 1 || n > maxSeconds {
		return 0, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid expires_in: must be a whole number of seconds", Hint: "leave it out for 24 hours"}
	}
	return time.Duration(n) * time.Second, nil
}
