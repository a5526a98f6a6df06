package egress

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Causes for ending connections.
var (
	errEnded  = errors.New("the job has ended")
	errBudget = errors.New("the job has used up its data volume")
)

// Session allows one job to use the socket of its sandbox. The caller of Begin
// must call End.
type Session struct {
	socket    *Socket
	job       string
	transport *http.Transport // for requests; not used by tunnels

	ctx      context.Context
	cancel   context.CancelCauseFunc
	bytes    atomic.Int64
	attempts atomic.Int64

	mu       sync.Mutex
	conns    map[*guestConn]struct{} // guarded by mu; the sandbox's connections of this session
	inflight int                     // guarded by mu
	ended    bool                    // guarded by mu
	idle     chan struct{}           // closed when ended and inflight is 0
}

// Begin lets a job use the socket until End. It ends the previous session, if
// any. On a closed socket the returned session has already ended.
func (s *Socket) Begin(job, sandbox string) *Session {
	x := &Session{socket: s, job: job, conns: map[*guestConn]struct{}{}, idle: make(chan struct{})}
	x.ctx, x.cancel = context.WithCancelCause(context.Background())
	x.transport = x.newTransport()
	s.mu.Lock()
	old, closed := s.session, s.closed
	s.session, s.sandbox = x, sandbox
	s.mu.Unlock()
	if old != nil {
		old.End()
	}
	if closed {
		x.End()
	}
	return x
}

// End refuses all new requests, closes open connections, and returns when all of
// them have ended and been observed. It may be called more than once.
func (x *Session) End() {
	x.socket.mu.Lock()
	if x.socket.session == x {
		x.socket.session = nil
	}
	x.socket.mu.Unlock()
	x.mu.Lock()
	if !x.ended {
		x.ended = true
		if x.inflight == 0 {
			close(x.idle)
		}
	}
	open := make([]*guestConn, 0, len(x.conns))
	for c := range x.conns {
		open = append(open, c)
	}
	x.mu.Unlock()
	x.cancel(errEnded)
	for _, c := range open {
		_ = c.Close()
	}
	<-x.idle
	x.transport.CloseIdleConnections()
}

// enter counts a running attempt; leave must be called at its end.
func (x *Session) enter() *refusal {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return refuse(http.StatusForbidden, errEnded.Error())
	}
	x.inflight++
	return nil
}

func (x *Session) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.inflight--
	if x.ended && x.inflight == 0 {
		close(x.idle)
	}
}

// spend charges n bytes to the job. Over the limit it returns errBudget, which
// ends the connection.
func (x *Session) spend(n int) error {
	if x.bytes.Add(int64(n)) > x.socket.proxy.cfg.MaxBytes {
		return errBudget
	}
	return nil
}

func (x *Session) spent() bool { return x.bytes.Load() > x.socket.proxy.cfg.MaxBytes }

// limited returns a context of the session that ends after d.
func (x *Session) limited(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(x.ctx, d)
}

func (x *Session) track(c *guestConn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended {
		x.conns[c] = struct{}{}
	}
	return !x.ended
}

func (x *Session) forget(c *guestConn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.conns, c)
}
