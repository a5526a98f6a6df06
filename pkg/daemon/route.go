package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/api/route"
	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// RouterOptions are how a Router is started.
type RouterOptions struct {
	Version   string
	Logger    *slog.Logger
	Env       config.Environment
	Redactor  *secret.Redactor
	Inherited []*os.File // as in Options
}

// Router is a running router in front of cells. It has no state directory.
type Router struct {
	listener net.Listener
	metrics  net.Listener // nil if there are none
	router   *route.Router
	cells    string // where they come from
	failed   chan struct{}
	err      error // of serving; read after failed
	grace    time.Duration

	cancel     context.CancelFunc
	background sync.WaitGroup
	undo       teardown
}

// routerGC makes the memory of a router follow its streams more closely, whose
// buffers live long.
const routerGC = 20

// StartRouter starts a router. It does not wait for the map of cells: until it has
// come, requests are held. The caller must close the router.
func StartRouter(ctx context.Context, cfg config.Config, o RouterOptions) (_ *Router, err error) {
	r := &Router{failed: make(chan struct{}), grace: cfg.Grace}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo.run(context.WithoutCancel(ctx)))
		}
	}()
	own := cfg
	own.PreviewListen = "" // previews come to the address of the router
	passed, err := inheritListeners(ctx, o.Inherited, own)
	if err != nil {
		return nil, err
	}
	r.undo.addClose(func() error { passed.close(); return nil })
	table := route.NewTable()
	source, err := r.openSource(cfg, o, table)
	if err != nil {
		return nil, err
	}
	if r.listener = passed.service; r.listener == nil {
		if r.listener, err = listen(cfg.Listen, ReasonListen, "use another address"); err != nil {
			return nil, err
		}
		r.undo.addClose(func() error { _ = r.listener.Close(); return nil }) // usually closed already
	}
	if cfg.MetricsListen != "" {
		if r.metrics, err = listen(cfg.MetricsListen, "", "set metrics_listen to another address"); err != nil {
			return nil, err
		}
		r.undo.addClose(func() error { _ = r.metrics.Close(); return nil })
	}
	if r.router, err = r.newRouter(cfg, o, table); err != nil {
		return nil, err
	}
	r.undo.addClose(func() error { r.router.Close(); return nil })
	if err := crash.Harden(); err != nil {
		return nil, err
	}
	debug.SetGCPercent(routerGC)
	r.run(ctx, o.Logger, source)
	return r, nil
}

// newRouter returns the router with the settings of cfg.
func (r *Router) newRouter(cfg config.Config, o RouterOptions, table *route.Table) (*route.Router, error) {
	proxies, err := server.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return nil, err
	}
	rc := route.Config{
		Table: table, Hold: cfg.Hold, Held: cfg.HeldRequests, Proxies: proxies,
		Language: dreamcore.Language(cfg.Language), Version: o.Version, Logger: o.Logger,
	}
	if cfg.PreviewKeyFile == "" {
		return route.New(rc), nil
	}
	place, ok := previewPlace(cfg, r.listener.Addr())
	if !ok || place.Shared {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "preview_key_file is set, but there is no domain for previews",
			Hint: "set preview_domain as the cells have it, or remove preview_key_file",
		}
	}
	key, err := readKey(cfg.PreviewKeyFile)
	if err != nil {
		return nil, err
	}
	o.Redactor.Add(key)
	if rc.Previews, err = preview.NewOwners(place, key); err != nil {
		return nil, err
	}
	return route.New(rc), nil
}

// maxKeyFile bounds the file of a key.
const maxKeyFile = 64 << 10

func readKey(file string) (string, error) {
	raw, err := readSmall(file, maxKeyFile)
	if err != nil {
		return "", &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot read preview_key_file", Err: err, Hint: "it must hold the key of previews that all cells share"}
	}
	return strings.TrimSpace(string(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")))), nil
}

// run starts everything that goes on until Close.
func (r *Router) run(ctx context.Context, log *slog.Logger, source func(context.Context)) {
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	r.background.Go(func() { source(ctx) })
	if r.metrics != nil {
		r.background.Go(func() { serveMetrics(ctx, r.metrics, r.router.Metrics(), log) })
	}
	front := server.Front{
		Handler: r.router, HeaderBytes: r.router.HeaderBytes(), Logger: log,
		Stop: func() time.Duration {
			limit := max(r.grace, streamGrace)
			r.router.Drain(limit)
			return limit
		},
	}
	go func() {
		defer close(r.failed)
		r.err = front.Serve(ctx, r.listener)
	}()
}

// URL returns the address of the router.
func (r *Router) URL() string { return "http://" + r.listener.Addr().String() }

// Cells says where the router learns of its cells.
func (r *Router) Cells() string { return r.cells }

// Failed returns a channel that is closed when the router no longer serves. Close
// returns the reason.
func (r *Router) Failed() <-chan struct{} { return r.failed }

// Close stops serving gracefully: open requests end, and streams with an error event
// if they take too long.
func (r *Router) Close() error {
	r.cancel()
	<-r.failed
	r.background.Wait()
	return errors.Join(r.err, r.undo.run(context.Background()))
}

// serveMetrics answers Prometheus at an address of its own until ctx ends.
func serveMetrics(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: metricsHeaderLimit, ReadTimeout: metricsHeaderLimit, WriteTimeout: 3 * metricsHeaderLimit, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // a scrape that is cut is repeated
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		log.Error("metrics have ended", "error", err)
	}
}
