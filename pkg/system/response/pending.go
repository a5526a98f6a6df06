package response

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// newLimit is how long a connection without a request delays the end of a server.
const newLimit = 5 * time.Second

// Pending knows the connections of an http.Server that still need a response:
// http.Server.Shutdown drops each request whose header it reads later, also on
// connections that were accepted before. The zero value is ready to use.
type Pending struct {
	mu      sync.Mutex
	states  map[net.Conn]http.ConnState // guarded by mu; new and active ones
	changed chan struct{}               // guarded by mu; closed when states shrinks
}

// Follow must be called from the server's ConnState.
func (p *Pending) Follow(c net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if state == http.StateNew || state == http.StateActive {
		if p.states == nil {
			p.states, p.changed = map[net.Conn]http.ConnState{}, make(chan struct{})
		}
		p.states[c] = state
	} else {
		delete(p.states, c)
	}
	if state != http.StateNew && p.changed != nil {
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// Shutdown answers what the accepted connections ask for and shuts srv down, whose
// listener must be closed and whose Serve must have returned. When ctx ends first, it
// returns its error, and connections are open.
func (p *Pending) Shutdown(ctx context.Context, srv *http.Server) error {
	fresh, cancel := context.WithTimeout(ctx, newLimit)
	defer cancel()
	p.wait(fresh, http.StateNew)
	p.wait(ctx, http.StateActive)
	return srv.Shutdown(ctx)
}

// wait waits until no connection is in a state, or ctx ends.
func (p *Pending) wait(ctx context.Context, state http.ConnState) {
	for {
		p.mu.Lock()
		changed, found := p.changed, false
		for _, s := range p.states {
			found = found || s == state
		}
		p.mu.Unlock()
		if !found {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
