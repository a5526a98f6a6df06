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
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// Prompts serves prompt endpoints, which may change at any time;
// *prompt.Service implements it.
type Prompts interface {
	// Names returns the names of the endpoints and a version that changes with
	// them.
	Names() (names []string, version uint64)
	Version() uint64
	// Answer handles a request. The error is CodeInvalid or CodeTooLarge for bad
	// fields, CodeNotFound if the endpoint no longer exists, and CodeBusy if too
	// many calls are running.
	Answer(ctx context.Context, name string, body []byte, lang dreamcore.Language) (prompt.Result, error)
}

// otherPaths are first path elements that are reserved besides the table's
// endpoints.
var otherPaths = []string{"jobs", "projects", "users"}

// ReservedNames returns the names that no prompt endpoint may have.
func ReservedNames() []string {
	names := append([]string{}, otherPaths...)
	for _, e := range (&Server{}).endpoints() {
		names = append(names, e.name)
	}
	return names
}

// routing caches the routes of the table and the prompt endpoints.
type routing struct {
	mu      sync.Mutex
	version uint64 // guarded by mu
	made    bool   // guarded by mu
	routes  routes // guarded by mu
}

// currentRoutes returns the routes with the current prompt endpoints.
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
				continue // Prompts refuses such names; an endpoint of the table is never hidden
			}
			table = append(table, endpoint{name: name, methods: []string{http.MethodPost}, serve: s.promptEndpoint(name)})
		}
		s.prompts.routes, s.prompts.version, s.prompts.made = newRoutes(table), version, true
	}
	return s.prompts.routes
}

// promptEndpoint returns the handler of one prompt endpoint.
func (s *Server) promptEndpoint(name string) func(*exchange, *http.Request) {
	return func(x *exchange, r *http.Request) {
		body, ok := x.readBody(r)
		if !ok {
			return
		}
		lang := preferredLanguage(strings.Join(r.Header.Values("Accept-Language"), ","), s.cfg.DefaultLanguage)
		result, err := s.cfg.Prompts.Answer(r.Context(), name, body, lang)
		if r.Context().Err() != nil {
			x.cut = errors.Join(errors.New("the client disconnected before the response"), err)
			return
		}
		if err != nil {
			x.fail(fmt.Errorf("answer a prompt: %w", err))
			return
		}
		if result.Status != http.StatusOK && statefile.IsFull(result.Cause) { // of the ledger
			x.fail(result.Cause)
			return
		}
		x.err = result.Cause
		if result.RetryAfter > 0 {
			x.retryAfter(max(result.RetryAfter+time.Second-1, time.Second))
		}
		x.answer(result.Status, result.Body)
	}
}
