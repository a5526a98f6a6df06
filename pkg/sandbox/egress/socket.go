package egress

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// What Listen makes in a directory: a socket, and the certificates that a
// sandbox trusts.
const (
	SocketName = "egress.sock"
	bundleName = "egress-ca.pem"
)

const (
	readHeaderLimit = 10 * time.Second
	maxHeaderBytes  = 32 << 10
)

// Socket is the proxy's end in one sandbox. Whoever called Listen calls Close.
type Socket struct {
	proxy     *Proxy
	authority *authority // that this sandbox trusts; nil without injections
	listener  net.Listener
	file      *socket.File
	bundle    string // path of the file; "" is none
	server    *http.Server
	served    chan struct{}
	running   sync.WaitGroup // connections, and handlers of those that were taken over

	mu      sync.Mutex
	session *Session // guarded by mu; nil: everything is refused
	sandbox string   // guarded by mu; the id of the sandbox, once known
	user    string   // guarded by mu; whose sandbox it is, see SetUser
	conns   int      // guarded by mu
	closed  bool     // guarded by mu

	closeOnce sync.Once
	closeErr  error
}

// SetUser says whose sandbox it is, for attempts.
func (s *Socket) SetUser(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user = user
}

// Listen makes the socket in dir, which every user may connect to, and serves
// it until Close. Until Begin everything is refused. Errors have
// dreamcore.CodeSetup.
func (p *Proxy) Listen(dir string) (_ *Socket, err error) {
	s := &Socket{proxy: p, served: make(chan struct{})}
	if s.authority, err = p.currentAuthority(); err == nil {
		err = s.writeBundle(dir)
	}
	if err == nil {
		s.listener, s.file, err = socket.Listen(dir, SocketName, 0o666)
	}
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the egress proxy cannot make its socket in " + dir,
			Hint: "check that the directory exists and is writable: ls -ld " + dir, Err: errors.Join(err, s.removeBundle()),
		}
	}
	s.server = s.newServer()
	if err := p.add(s); err != nil {
		return nil, errors.Join(err, s.listener.Close(), s.file.Remove(), s.removeBundle())
	}
	go func() {
		defer close(s.served)
		if err := s.server.Serve(guests{s}); !errors.Is(err, http.ErrServerClosed) {
			p.cfg.Logger.Error("the egress proxy's socket failed", "error", err)
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
		IdleTimeout:                  s.proxy.cfg.IdleLimit,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     slog.NewLogLogger(s.proxy.cfg.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, guestKey{}, c)
		},
		// The handler of a connection that it takes over counts itself, before.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.running.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.running.Done()
			}
		},
	}
}

// Close ends the session, cuts all connections, waits for all that ran and
// removes the files. It may be called more than once.
func (s *Socket) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		session := s.session
		s.mu.Unlock()
		err := s.server.Close()
		if session != nil {
			session.End()
		}
		<-s.served
		s.running.Wait()
		s.proxy.sockets.Remove(s)
		s.closeErr = errors.Join(err, s.file.Remove(), s.removeBundle())
	})
	return s.closeErr
}

// writeBundle puts the certificates into dir that programs of the sandbox are
// pointed to.
func (s *Socket) writeBundle(dir string) error {
	pem := s.proxy.bundle
	if s.authority != nil {
		pem = append(append([]byte(nil), pem...), s.authority.pem...)
	}
	if len(pem) == 0 {
		return nil
	}
	s.bundle = filepath.Join(dir, bundleName)
	if err := os.WriteFile(s.bundle, pem, 0o644); err != nil {
		return err
	}
	return os.Chmod(s.bundle, 0o644) // whatever the umask
}

func (s *Socket) removeBundle() error {
	if s.bundle == "" {
		return nil
	}
	if err := os.Remove(s.bundle); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// guests is the listener: it pins each connection to the session in which it
// was made, so that no other job is ever charged for it or speaks for it.
type guests struct{ s *Socket }

func (g guests) Addr() net.Addr { return g.s.listener.Addr() }
func (g guests) Close() error   { return g.s.listener.Close() }

func (g guests) Accept() (net.Conn, error) {
	for {
		conn, err := g.s.listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := g.s.admit(conn.(*net.UnixConn)); c != nil {
			return c, nil
		}
		// One too many, or too late. A queue would hold it over the job's end.
		_ = conn.Close()
	}
}

func (s *Socket) admit(conn *net.UnixConn) *guestConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.conns >= s.proxy.cfg.MaxConns {
		return nil
	}
	c := &guestConn{UnixConn: conn, socket: s, session: s.session}
	if c.session != nil && !c.session.track(c) {
		c.session = nil
	}
	s.conns++
	return c
}

type guestKey struct{}

// guestConn is a connection of a sandbox.
type guestConn struct {
	*net.UnixConn
	socket  *Socket
	session *Session // nil: made when no job ran
	once    sync.Once
}

// Close implements net.Conn.
func (c *guestConn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(func() {
		if c.session != nil {
			c.session.forget(c)
		}
		c.socket.mu.Lock()
		c.socket.conns--
		c.socket.mu.Unlock()
	})
	return err
}
