package socket

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// ReadHeaderLimit is how long the header of a request may take.
const ReadHeaderLimit = 10 * time.Second

// Options configures a Server.
type Options struct {
	Handler        http.Handler
	Listener       func(net.Listener) net.Listener                       // wraps the listener; may be nil
	ConnContext    func(ctx context.Context, c net.Conn) context.Context // as in http.Server; may be nil
	IdleTimeout    time.Duration                                         // of a connection between requests; 0 is unlimited
	MaxHeaderBytes int                                                   // 0 selects the default of net/http
	Logger         *slog.Logger
}

// Server serves HTTP/1.1 on a socket.
type Server struct {
	http    http.Server
	file    *File
	served  chan struct{}  // closed when Serve has returned
	running sync.WaitGroup // connections, and handlers, which outlast hijacked connections
}

// Serve creates a socket as Listen does and serves it until Close, which the
// caller must call. The contexts of requests descend from ctx.
func Serve(ctx context.Context, dir, name string, perm fs.FileMode, o Options) (*Server, error) {
	unix, file, err := Listen(dir, name, perm)
	if err != nil {
		return nil, err
	}
	s := &Server{file: file, served: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	s.http = http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.running.Add(1) // the connection still counts, so Add is never called on a zero counter
			defer s.running.Done()
			o.Handler.ServeHTTP(w, r)
		}),
		Protocols:                    &protocols,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            ReadHeaderLimit,
		IdleTimeout:                  o.IdleTimeout,
		MaxHeaderBytes:               o.MaxHeaderBytes,
		ErrorLog:                     slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnContext:                  o.ConnContext,
		// http.Server.Close does not wait for its connections. StateNew is
		// reported before Serve returns, so Add is never concurrent with Wait.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.running.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.running.Done()
			}
		},
	}
	listener := net.Listener(unix)
	if o.Listener != nil {
		listener = o.Listener(listener)
	}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			o.Logger.Error("serving a socket failed", "socket", name, "error", err)
		}
	}()
	return s, nil
}

// Close closes all connections but hijacked ones, which are their handlers' to
// close, waits for connections and handlers, and removes the socket. It must be
// called once; to end handlers sooner, cancel the context of Serve first.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.served
	s.running.Wait()
	return errors.Join(err, s.file.Remove())
}
