package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
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
	keepAliveLimit = 5 * time.Minute // a tool call of the CLI may take as long
	maxHeaderBytes = 32 << 10        // the anthropic-beta header is long
)

var errSocketClosed = errors.New("the model gateway's socket is closed")

// Socket is the gateway's side of one sandbox. The caller of Listen must Close
// it.
type Socket struct {
	gw     *Gateway
	server *socket.Server
	path   string

	ctx    context.Context // the socket's lifetime
	cancel context.CancelCauseFunc

	wrongTokens throttle
	awaited     atomic.Pointer[[sha256.Size]byte] // digest of the token of an agent that waits
	owner       atomic.Pointer[Owner]

	mu     sync.Mutex
	grants map[*Grant]struct{} // guarded by mu
	closed bool                // guarded by mu

	closeOnce sync.Once
	closeErr  error
}

// Listen creates dir/api.sock, to which every user may connect, and serves it
// until Close. The directory must exist; a socket that an earlier process left
// in it is replaced. Its path may be longer than the 107 bytes of a socket
// address. Errors have dreamcore.CodeSetup.
func (g *Gateway) Listen(dir string) (*Socket, error) {
	s := &Socket{gw: g, path: filepath.Join(dir, SocketName), grants: make(map[*Grant]struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	var err error
	s.server, err = socket.Serve(s.ctx, dir, SocketName, 0o666, socket.Options{
		Handler:        http.HandlerFunc(s.serve),
		Listener:       func(l net.Listener) net.Listener { return netutil.LimitListener(l, g.cfg.MaxConns) },
		IdleTimeout:    keepAliveLimit,
		MaxHeaderBytes: maxHeaderBytes,
		Logger:         g.cfg.Logger,
	})
	if err != nil {
		s.cancel(err)
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the model gateway cannot create its socket in " + dir,
			Hint: "check that the directory exists and is writable: ls -ld " + dir, Err: err,
		}
	}
	if !g.sockets.Add(s) {
		err := &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the model gateway is closed"}
		s.cancel(err)
		return nil, errors.Join(err, s.server.Close())
	}
	return s, nil
}

// Path returns the socket's path on the host.
func (s *Socket) Path() string { return s.path }

// Await makes it known that an agent waits for its job with a token. Until Grant the token
// only counts tokens, which the gateway estimates itself, also for the job until its first
// request to the model: a rehearsal may not have ended. Only one token is known in this
// way, until the next Await or Grant.
func (s *Socket) Await(token string) {
	digest := sha256.Sum256([]byte(token))
	s.awaited.Store(&digest)
}

// awaits reports whether a digest is that of Await.
func (s *Socket) awaits(digest [sha256.Size]byte) bool {
	d := s.awaited.Load()
	return d != nil && subtle.ConstantTimeCompare(d[:], digest[:]) == 1
}

// Owner is the user and the sandbox of a socket, for the audit log.
type Owner struct{ User, Sandbox string }

// SetOwner sets the owner of the socket, because requests without a valid token
// belong to no job that could name it.
func (s *Socket) SetOwner(o Owner) { s.owner.Store(&o) }

func (s *Socket) record(e audit.Entry) {
	if o := s.owner.Load(); o != nil {
		e.User, e.Sandbox = o.User, o.Sandbox
	}
	s.gw.cfg.Audit.Record(e)
}

// Close revokes the socket's grants, closes its connections, waits for its
// requests and removes the socket file. It may be called more than once.
func (s *Socket) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closed = true
		open := slices.Collect(maps.Keys(s.grants))
		s.mu.Unlock()

		s.cancel(errSocketClosed)
		for _, gr := range open {
			gr.Revoke()
		}
		s.closeErr = s.server.Close()
		s.gw.sockets.Remove(s)
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
