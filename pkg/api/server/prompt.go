package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// Prompts answers prompt endpoints, of which there may be others at any time;
// *prompt.Service is one.
type Prompts interface {
	// Names returns the names of the endpoints and a version that changes with
	// them.
	Names() (names []string, version uint64)
	Version() uint64
	// Answer answers a request. CodeInvalid and CodeTooLarge: its fields;
	// CodeNotFound: there is no endpoint of that name any more; CodeBusy: too
	// many calls run.
	Answer(ctx context.Context, name string, body []byte, lang dreamcore.Language) (prompt.Result, error)
}

// otherPaths are first elements of paths that are not endpoints of the table.
var otherPaths = []string{"jobs", "projects", "users"}

// ReservedNames returns the names that no prompt endpoint may have.
func ReservedNames() []string {
	names := append([]string{}, otherPaths...)
	for _, e := range (&Server{}).endpoints() {
		names = append(names, e.name)
	}
	return names
}

// routing keeps the routes of the table and of the prompt endpoints together.
type routing struct {
	mu      sync.Mutex
	version uint64 // guarded by mu
	made    bool   // guarded by mu
	routes  routes // guarded by mu
}

// currentRoutes returns the routes with the prompt endpoints that there are now.
func (s *Server) currentRoutes() routes {
	if s.cfg.Prompts == nil {
		return s.routes
	}
	version := s.cfg.Prompts.Version()
	s.prompts.mu.Lock()
	defer s.prompts.mu.Unlock()
	if !s.prompts.made || s.prompts.version != version {
		names, version := s.cfg.Prompts.Names()
		reserved := ReservedNames()
		table := s.endpoints()
		for _, name := range names {
			if slices.Contains(reserved, name) {
				continue // the Prompts refuse it; an endpoint of the table is never hidden
			}
			table = append(table, endpoint{name: name, methods: []string{http.MethodPost}, serve: s.promptEndpoint(name)})
		}
		s.prompts.routes, s.prompts.version, s.prompts.made = newRoutes(table), version, true
	}
	return s.prompts.routes
}

// promptEndpoint answers the requests of one prompt endpoint.
func (s *Server) promptEndpoint(name string) func(*exchange, *http.Request) {
	return func(x *exchange, r *http.Request) {
		body, ok := x.readBody(r)
		if !ok {
			return
		}
		lang := preferredLanguage(strings.Join(r.Header.Values("Accept-Language"), ","), s.cfg.DefaultLanguage)
		result, err := s.cfg.Prompts.Answer(r.Context(), name, body, lang)
		if r.Context().Err() != nil {
			x.cut = errors.Join(errors.New("the client did not wait for the answer"), err)
			return
		}
		if err != nil {
			x.fail(fmt.Errorf("answer a prompt: %w", err))
			return
		}
		x.err = result.Cause
		if result.RetryAfter > 0 {
			x.retryAfter(max(result.RetryAfter+time.Second-1, time.Second))
		}
		x.answer(result.Status, result.Body)
	}
}
