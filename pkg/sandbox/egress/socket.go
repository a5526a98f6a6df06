package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Files that Listen creates in a directory: a socket, and the certificates that
// a sandbox trusts.
const (
	SocketName = "egress.sock"
	bundleName = "egress-ca.pem"
)

// maxHeaderBytes bounds the header of a request.
const maxHeaderBytes = 32 << 10

// Socket is the proxy's side of one sandbox. The caller of Listen must Close it.
type Socket struct {
	proxy     *Proxy
	authority *authority // trusted by this sandbox; nil without injections
	server    *socket.Server
	bundle    string // path of the certificates; "" without any

	mu      sync.Mutex
	session *Session // guarded by mu; nil refuses everything
	sandbox string   // guarded by mu; id of the sandbox, "" until known
	user    string   // guarded by mu; user of the sandbox, see SetUser
	conns   int      // guarded by mu
	closed  bool     // guarded by mu

	closeOnce sync.Once
	closeErr  error
}

// SetUser sets the user of the sandbox, which is recorded in attempts.
func (s *Socket) SetUser(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user = user
}

// Listen creates the socket in dir, to which every user may connect, and serves
// it until Close. Until Begin everything is refused. Errors have
// dreamcore.CodeSetup.
func (p *Proxy) Listen(dir string) (_ *Socket, err error) {
	s := &Socket{proxy: p}
	if s.authority, err = p.currentAuthority(); err == nil {
		err = s.writeBundle(dir)
	}
	if err == nil {
		s.server, err = socket.Serve(context.Background(), dir, SocketName, 0o666, socket.Options{
			Handler:  http.HandlerFunc(s.serve),
			Listener: func(l net.Listener) net.Listener { return guests{l, s} },
			ConnContext: func(ctx context.Context, c net.Conn) context.Context {
				return context.WithValue(ctx, guestKey{}, c)
			},
			IdleTimeout:    p.cfg.IdleLimit,
			MaxHeaderBytes: maxHeaderBytes,
			Logger:         p.cfg.Logger,
		})
	}
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the egress proxy cannot create its socket in " + dir,
			Hint: "check that the directory exists and is writable: ls -ld " + dir, Err: errors.Join(err, s.removeBundle()),
		}
	}
	if !p.sockets.Add(s) {
		err := &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the egress proxy is closed"}
		return nil, errors.Join(err, s.server.Close(), s.removeBundle())
	}
	return s, nil
}

// Close ends the session, closes all connections, waits for their handlers and
// removes the files. It may be called more than once.
func (s *Socket) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		session := s.session
		s.mu.Unlock()
		if session != nil {
			session.End()
		}
		s.closeErr = errors.Join(s.server.Close(), s.removeBundle())
		s.proxy.sockets.Remove(s)
	})
	return s.closeErr
}

// writeBundle writes the certificates for the sandbox's programs into dir.
func (s *Socket) writeBundle(dir string) error {
	pem := s.proxy.bundle
	if s.authority != nil {
		pem = slices.Concat(pem, s.authority.pem)
	}
	if len(pem) == 0 {
		return nil
	}
	s.bundle = filepath.Join(dir, bundleName)
	if err := os.WriteFile(s.bundle, pem, 0o644); err != nil {
		return err
	}
	return os.Chmod(s.bundle, 0o644) // regardless of the umask
}

func (s *Socket) removeBundle() error {
	if s.bundle == "" {
		return nil
	}
	return statefile.IgnoreMissing(os.Remove(s.bundle))
}

// guests is the listener. It ties each connection to the session in which it was
// opened, so that no other job can be charged for it or use it.
type guests struct {
	net.Listener
	s *Socket
}

func (g guests) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := g.s.admit(conn.(*net.UnixConn)); c != nil {
			return c, nil
		}
		// Over the limit or closed. Queueing it could outlast the job.
		_ = conn.Close()
	}
}

func (s *Socket) admit(conn *net.UnixConn) *guestConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.conns >= s.proxy.cfg.MaxConns {
		return nil
	}
	c := &guestConn{UnixConn: conn, socket: s}
	if s.session != nil && s.session.enter() {
		c.session = s.session
		c.stop = context.AfterFunc(c.session.ctx, func() { _ = c.Close() })
	}
	s.conns++
	return c
}

type guestKey struct{}

// guestConn is a connection from a sandbox.
type guestConn struct {
	*net.UnixConn
	socket  *Socket
	session *Session    // nil if opened while no job was running
	stop    func() bool // after it, the end of the session no longer closes c
	once    sync.Once
}

// Close implements net.Conn.
func (c *guestConn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(func() {
		c.socket.mu.Lock() // admit sets stop with mu held
		defer c.socket.mu.Unlock()
		c.socket.conns--
		if c.session != nil {
			c.stop()
			c.session.running.Done()
		}
	})
	return err
}
