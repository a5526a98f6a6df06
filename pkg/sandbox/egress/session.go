package egress

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
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

	mu      sync.Mutex
	ended   bool           // guarded by mu; nothing is added to running any more
	running sync.WaitGroup // attempts, and the sandbox's connections of this session
}

// Begin lets a job use the socket until End. It ends the previous session, if
// any. On a closed socket the returned session has already ended.
func (s *Socket) Begin(job, sandbox string) *Session {
	x := &Session{socket: s, job: job}
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
	x.ended = true
	x.mu.Unlock()
	x.cancel(errEnded)
	x.running.Wait()
	x.transport.CloseIdleConnections()
}

// enter counts an attempt or a connection, for which running.Done must be called at
// its end. It returns false if the session has ended.
func (x *Session) enter() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.ended {
		x.running.Add(1)
	}
	return !x.ended
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
