package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

// Front serves a handler to clients that may be hostile: it bounds the size and time
// of headers, their memory together, and the time without progress, and it ends
// gracefully.
type Front struct {
	Handler     http.Handler
	Limits      Limits // zero values select the defaults
	HeaderBytes int    // of one request; 0 means Limits.MaxHeaderBytes
	Logger      *slog.Logger
	Stop        func() time.Duration // called once when the end begins; returns how long open requests may take
}

// Serve serves requests on ln until ctx is done, then closes ln and waits as long as
// Stop says for open requests before it cuts them. It returns when no request is being
// served any more: nil after such a stop, an error if ln failed.
func (f Front) Serve(ctx context.Context, ln net.Listener) error {
	f.Limits = f.Limits.withDefaults()
	if f.HeaderBytes == 0 {
		f.HeaderBytes = f.Limits.MaxHeaderBytes
	}
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	open, pending := &inFlight{}, &response.Pending{}
	srv := &http.Server{
		Handler:     trackHeaders(open.track(f.Handler)),
		BaseContext: func(net.Listener) context.Context { return base },
		ConnContext: f.prepare,
		ConnState: func(c net.Conn, state http.ConnState) {
			followHeaders(c, state)
			pending.Follow(c, state)
		},
		ReadHeaderTimeout:            f.Limits.ReadHeaderTimeout,
		ReadTimeout:                  f.Limits.ReadTimeout,
		IdleTimeout:                  f.Limits.IdleTimeout,
		MaxHeaderBytes:               f.HeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(f.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(f.boundHeaders(ln)) }()
	var failed error
	select {
	case failed = <-ended:
		failed = fmt.Errorf("accept connections on %s: %w", ln.Addr(), failed)
		cut(failed)
		_ = srv.Close()
	case <-ctx.Done():
		_ = ln.Close()
		<-ended // the listener is closed
		f.stop(ctx, srv, pending, cut)
	}
	open.wait()
	return failed
}

var errStopping = errors.New("the service has stopped")

// stop waits for open requests, whose responses close their connections, and closes
// idle ones. The listener must be closed.
func (f Front) stop(ctx context.Context, srv *http.Server, pending *response.Pending, cut context.CancelCauseFunc) {
	limit := f.Stop()
	f.Logger.Info("stopping the service", "grace", limit)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	if err := pending.Shutdown(grace, srv); err != nil {
		f.Logger.Warn("cutting open requests that did not end in time", "grace", limit)
		cut(errStopping)
		_ = srv.Close()
	}
}

// inFlight counts the requests that are being served, because
// http.Server.Close does not wait for their handlers.
type inFlight struct {
	mu    sync.Mutex
	count int
	idle  chan struct{} // closed at count 0; nil until wait is called
}

func (f *inFlight) track(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.count++
		stopped := f.idle != nil
		f.mu.Unlock()
		defer f.leave()
		if stopped {
			panic(http.ErrAbortHandler) // the connection is already closed
		}
		h.ServeHTTP(w, r)
	})
}

func (f *inFlight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	if f.count == 0 && f.idle != nil {
		select {
		case <-f.idle:
		default:
			close(f.idle)
		}
	}
}

func (f *inFlight) wait() {
	f.mu.Lock()
	f.idle = make(chan struct{})
	if f.count == 0 {
		close(f.idle)
	}
	f.mu.Unlock()
	<-f.idle
}
