package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// SocketName is the file name of a socket in its directory.
const SocketName = "api.sock"

const (
	readHeaderLimit = 10 * time.Second
	keepAliveLimit  = 5 * time.Minute // a tool call of the CLI may take as long
	maxHeaderBytes  = 32 << 10        // the anthropic-beta header is long
)

var errSocketClosed = errors.New("the model gateway's socket is closed")

// Socket is the gateway's end in one sandbox. Whoever called Listen calls Close.
type Socket struct {
	gw     *Gateway
	file   *socket.File
	path   string
	server *http.Server
	served chan struct{}  // closed when Serve has returned
	conns  sync.WaitGroup // one for each connection

	ctx    context.Context // the socket's lifetime
	cancel context.CancelCauseFunc

	wrongTokens throttle
	owner       atomic.Pointer[Owner]

	mu     sync.Mutex
	grants map[*Grant]struct{} // guarded by mu
	closed bool                // guarded by mu

	closeOnce sync.Once
	closeErr  error
}

// Listen makes dir/api.sock, which every user may connect to, and serves it
// until Close. The directory must exist; a socket that an earlier process left
// in it is replaced. Its path may be longer than the 107 bytes of a socket
// address. Errors have dreamcore.CodeSetup.
func (g *Gateway) Listen(dir string) (*Socket, error) {
	listener, file, err := socket.Listen(dir, SocketName, 0o666)
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the model gateway cannot make its socket in " + dir,
			Hint: "check that the directory exists and is writable: ls -ld " + dir, Err: err,
		}
	}
	s := &Socket{
		gw: g, file: file, path: filepath.Join(dir, SocketName),
		served: make(chan struct{}), grants: make(map[*Grant]struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.server = s.newServer()
	if err := g.add(s); err != nil {
		s.cancel(err)
		return nil, errors.Join(err, listener.Close(), file.Remove())
	}
	go func() {
		defer close(s.served)
		err := s.server.Serve(netutil.LimitListener(listener, g.cfg.MaxConns))
		if !errors.Is(err, http.ErrServerClosed) {
			g.cfg.Logger.Error("the model gateway's socket failed", "path", s.path, "err", err)
		}
	}()
	return s, nil
}

func (s *Socket) newServer() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(s.serve),
		Protocols:                    &protocols,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            readHeaderLimit,
		IdleTimeout:                  keepAliveLimit,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     slog.NewLogLogger(s.gw.cfg.Logger.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return s.ctx },
		// The server's Close does not wait for its connections; ours does.
		// StateNew is reported before Serve returns, so Add never meets Wait.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.conns.Add(1)
			case http.StateClosed:
				s.conns.Done()
			}
		},
	}
}

// Path returns the socket's path on the host.
func (s *Socket) Path() string { return s.path }

// Owner is whose socket it is, for the audit log.
type Owner struct{ User, Sandbox string }

// SetOwner says whose socket it is: requests without a good token have no job
// that could tell.
func (s *Socket) SetOwner(o Owner) { s.owner.Store(&o) }

func (s *Socket) record(e audit.Entry) {
	if o := s.owner.Load(); o != nil {
		e.User, e.Sandbox = o.User, o.Sandbox
	}
	s.gw.cfg.Audit.Record(e)
}

// Close revokes the socket's grants, cuts its connections, waits for all that
// ran on it and removes the socket file. It may be called more than once.
func (s *Socket) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		open := make([]*Grant, 0, len(s.grants))
		for gr := range s.grants {
			open = append(open, gr)
		}
		s.mu.Unlock()

		s.cancel(errSocketClosed)
		err := s.server.Close()
		for _, gr := range open {
			gr.Revoke()
		}
		<-s.served
		s.conns.Wait()
		s.gw.sockets.Remove(s)
		s.closeErr = errors.Join(err, s.file.Remove())
	})
	return s.closeErr
}

func (s *Socket) addGrant(gr *Grant) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.grants[gr] = struct{}{}
	return true
}

func (s *Socket) removeGrant(gr *Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.grants, gr)
}
