package server

import (
	"net/http"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// codeOrigin is an error code used only in HTTP responses, for a page whose origin
// is not configured.
const codeOrigin dreamcore.Code = "ORIGIN_NOT_ALLOWED"

// originOf returns the origin of the page that has sent a request, "" for other
// clients, and whether it may read responses. Origins are compared exactly.
func (s *Server) originOf(r *http.Request) (origin string, allowed bool) {
	values := r.Header.Values("Origin")
	if len(values) == 0 {
		return "", false
	}
	return values[0], len(values) == 1 && slices.Contains(s.cfg.CORSOrigins, values[0])
}

// allowOrigin lets the page of a configured origin read the response. Credentials
// of browsers play no part: the token is in the address.
func (s *Server) allowOrigin(x *exchange, r *http.Request) {
	if len(s.cfg.CORSOrigins) == 0 {
		return
	}
	h := x.Header()
	h.Add("Vary", "Origin")
	if origin, ok := s.originOf(r); ok {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", JobHeader+", X-Request-Id, Retry-After")
	}
}

// isPreflight reports whether r is the question of a browser whether a page of a
// configured origin may send another request.
func (s *Server) isPreflight(r *http.Request) bool {
	_, ok := s.originOf(r)
	return ok && r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}

// answerPreflight allows what following a job takes, and no header with a secret.
func (s *Server) answerPreflight(x *exchange, r *http.Request) {
	x.leaveBody(r)
	h := x.Header()
	h.Set("Access-Control-Allow-Methods", http.MethodGet)
	h.Set("Access-Control-Allow-Headers", "Last-Event-ID, Cache-Control")
	h.Set("Access-Control-Max-Age", "600")
	x.WriteHeader(http.StatusNoContent)
}

// checkOrigin refuses a page of another origin that has got hold of a link.
func (s *Server) checkOrigin(r *http.Request) error {
	if origin, allowed := s.originOf(r); origin != "" && !allowed {
		return &dreamcore.Error{
			Code: codeOrigin, Message: "Origin not allowed",
			Hint: "the setting cors_origins has the origins whose pages may follow jobs",
		}
	}
	return nil
}
