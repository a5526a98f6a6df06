package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
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
	file   *socketFile
	path   string
	server *http.Server
	served chan struct{}  // closed when Serve has returned
	conns  sync.WaitGroup // one for each connection

	ctx    context.Context // the socket's lifetime
	cancel context.CancelCauseFunc

	wrongTokens quiet

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
	listener, file, err := listenUnix(dir)
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
		return nil, errors.Join(err, listener.Close(), file.remove())
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
		s.gw.remove(s)
		s.closeErr = errors.Join(err, s.file.remove())
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

// socketFile is a bound socket: its directory, held open, and its identity.
type socketFile struct {
	dir  *os.File
	stat unix.Stat_t
}

// listenUnix binds through the open directory, since the address of a socket
// has room for 107 bytes and a state directory may lie deep.
func listenUnix(dir string) (_ *net.UnixListener, _ *socketFile, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	file := &socketFile{dir: d}
	if err := file.removeStale(); err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName), Net: "unix"})
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	listener.SetUnlinkOnClose(false) // the listener's path is good only while d is open
	if err := file.publish(); err != nil {
		return nil, nil, errors.Join(err, listener.Close(), unix.Unlinkat(int(d.Fd()), SocketName, 0), d.Close())
	}
	return listener, file, nil
}

// removeStale removes a socket of an earlier process, and nothing but a socket.
func (f *socketFile) removeStale() error {
	var st unix.Stat_t
	err := unix.Fstatat(int(f.dir.Fd()), SocketName, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at %s: %w", SocketName, err)
	case st.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return fmt.Errorf("%s is there and is no socket", SocketName)
	}
	if err := unix.Unlinkat(int(f.dir.Fd()), SocketName, 0); err != nil {
		return fmt.Errorf("remove the old %s: %w", SocketName, err)
	}
	return nil
}

// publish lets every user connect and remembers which socket is ours. It goes
// through a descriptor, so that a symlink put there meanwhile is not followed.
func (f *socketFile) publish() error {
	fd, err := unix.Openat(int(f.dir.Fd()), SocketName, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", SocketName, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &f.stat); err != nil {
		return fmt.Errorf("look at %s: %w", SocketName, err)
	}
	if f.stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is no socket", SocketName)
	}
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o666); err != nil {
		return fmt.Errorf("open %s to every user: %w", SocketName, err)
	}
	return nil
}

// remove deletes the socket file, if it is still the one that was made, and
// closes the directory.
func (f *socketFile) remove() error {
	var now unix.Stat_t
	err := unix.Fstatat(int(f.dir.Fd()), SocketName, &now, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && now.Dev == f.stat.Dev && now.Ino == f.stat.Ino {
		err = unix.Unlinkat(int(f.dir.Fd()), SocketName, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // somebody removed the directory: that is what we want
	}
	return errors.Join(err, f.dir.Close())
}
