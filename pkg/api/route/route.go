// Package route is a router in front of cells, each of which is a whole service with
// users of its own. It sends every request to the cell of its user, and keeps no state:
// any number of routers can stand side by side.
//
// A request passes these steps:
//
//	address → secret → body → user → cell → connection → answer
//
// The map of users and the addresses of cells come from outside into a Table. While a
// cell cannot be reached, its requests are held for a limited time. A request is sent
// again only if no connection could be made, or if the cell says that the user moves and
// that it has done nothing; reads also, a few times, if the cell has closed the
// connection before it answered.
//
// The router holds no secret of the service. Whether a client has one is what a cell
// says; without one, bodies are not read. The cells check every request again.
//
// The files: route.go has the router and its handler, want.go finds the user, table.go
// the cell, forward.go holds and sends, stream.go passes streams on, list.go merges
// lists, admit.go asks for secrets, body.go bounds memory.
package route

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

// Previews finds the owners of games; *preview.Owners implements it.
type Previews interface {
	// Serves reports whether all requests for a host belong to previews.
	Serves(host string) bool
	// User returns the owner of the game that a request may see.
	User(r *http.Request) (dreamcore.UserID, bool)
}

// Config configures a Router.
type Config struct {
	Table    *Table
	Hold     time.Duration      // how long a request waits for its cell
	Held     int                // how many may wait
	Previews Previews           // may be nil
	Proxies  []netip.Prefix     // in front of the router, whose X-Forwarded-For counts
	Language dreamcore.Language // of messages to players who prefer none
	Version  string
	Logger   *slog.Logger
}

// Router is the handler of a router. The caller must close it.
type Router struct {
	cfg       Config
	log       *slog.Logger
	addresses server.Addresses
	proxy     *httputil.ReverseProxy
	pooled    *http.Transport // for reads
	once      once            // for changes and streams
	bodies    *semaphore.Weighted
	holds     holds
	admitted  credentials
	lists     *semaphore.Weighted
	metrics   *metrics

	stopping context.Context // ends streams
	endAll   context.CancelCauseFunc

	drainOnce sync.Once
	draining  chan struct{} // closed when the end has begun
}

// New returns a Router.
func New(cfg Config) *Router {
	d := newDial()
	rt := &Router{
		cfg: cfg, log: cfg.Logger, addresses: server.NewAddresses(), pooled: newPool(d), once: once{d},
		bodies: semaphore.NewWeighted(maxBodies), lists: semaphore.NewWeighted(maxLists), draining: make(chan struct{}),
		holds: holds{most: cfg.Held, bytes: semaphore.NewWeighted(maxHeldBody)},
	}
	rt.stopping, rt.endAll = context.WithCancelCause(context.Background())
	rt.metrics = newMetrics(rt)
	rt.proxy = &httputil.ReverseProxy{
		Transport: rt, Rewrite: rt.rewrite, BufferPool: &buffers{},
		ErrorLog: slog.NewLogLogger(rt.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
				x.fail(err)
			}
		},
	}
	return rt
}

var errStopping = errors.New("the router stops")

// Drain begins the end: every answer closes its connection, so that clients reach
// another router, and readyz says so. Streams end with an error event before limit,
// after which the caller cuts the remaining streams.
func (rt *Router) Drain(limit time.Duration) {
	rt.drainOnce.Do(func() {
		close(rt.draining)
		time.AfterFunc(limit*3/4, func() { rt.endAll(errStopping) })
	})
}

// Close closes idle connections to cells, after the last request.
func (rt *Router) Close() {
	rt.endAll(errStopping)
	rt.pooled.CloseIdleConnections()
}

// Metrics returns the handler that Prometheus scrapes.
func (rt *Router) Metrics() http.Handler { return rt.metrics.handler() }

// SourceFailed counts a failure to learn of cells.
func (rt *Router) SourceFailed() { rt.metrics.sourceFailures.Inc() }

// HeaderBytes returns the bound of the header of a request.
func (rt *Router) HeaderBytes() int { return server.HeaderLimit(rt.cfg.Previews != nil) }

// ServeHTTP implements http.Handler.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{Writer: response.New(w, server.DefaultWriteTimeout), r: r, body: noBody, until: time.Now().Add(rt.cfg.Hold)}
	if rt.isDraining() {
		x.Header().Set("Connection", "close")
	}
	name := ""
	defer func() { rt.account(x, name) }() // also if the answer is cut
	name = rt.serve(x)
}

// account releases what a request has taken, counts it and logs it.
func (rt *Router) account(x *exchange, name string) {
	x.body.release()
	rt.metrics.request(name, x.Status())
	level := slog.LevelDebug
	attrs := []slog.Attr{
		slog.String("method", x.r.Method), slog.String("endpoint", name), slog.String("cell", x.cell), slog.Int("status", x.Status()),
		slog.Int64("bytes", x.Bytes()), slog.Duration("duration", x.Duration()),
	}
	if x.err != nil && x.r.Context().Err() == nil {
		level = slog.LevelWarn
		attrs = append(attrs, slog.Any("error", x.err))
	}
	rt.log.LogAttrs(x.r.Context(), level, "request", attrs...)
}

func (rt *Router) isDraining() bool {
	select {
	case <-rt.draining:
		return true
	default:
		return false
	}
}

// serve answers a request and returns the name of its endpoint for the metrics.
func (rt *Router) serve(x *exchange) (name string) {
	r := x.r
	x.alone = r.Method != http.MethodGet && r.Method != http.MethodHead
	if rt.cfg.Previews != nil && rt.cfg.Previews.Serves(r.Host) {
		x.stranger = true
		if user, ok := rt.cfg.Previews.User(r); ok {
			x.want = want{kind: cellOf, user: user}
		}
		rt.forward(x)
		return "preview"
	}
	at := rt.addresses.Find(r)
	switch {
	case r.Method == http.MethodConnect:
		x.fail(&dreamcore.Error{Code: codeMethod, Message: "Method not allowed"})
	case at.Endpoint == "livez":
		x.answer(http.StatusOK, map[string]string{"status": "alive"})
	case at.Endpoint == "readyz":
		rt.readyz(x)
	case at.Endpoint == "metrics":
		x.fail(&dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found", Hint: "the metrics of the router have an address of their own: see the setting metrics_listen"})
	case strings.HasPrefix(at.Endpoint, "moves"):
		x.fail(&dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found", Hint: "moves are led by: dreamcore cells, which asks the cells themselves"})
	default:
		if err := rt.route(x, at); err != nil {
			x.fail(err)
		}
	}
	return at.Endpoint
}

// route finds the cell of a request and forwards it.
func (rt *Router) route(x *exchange, at server.Address) error {
	known, err := rt.admit(x)
	if err != nil {
		return err
	}
	x.stranger = !known
	x.alone = x.alone || at.Endpoint == "jobs/{id}/events"
	if known {
		if x.body, err = rt.readBody(x, server.BodyLimit(at.Endpoint)); err != nil {
			x.body = noBody
			return err
		}
		x.until = time.Now().Add(rt.cfg.Hold) // the client was slow, not the cell
	}
	if x.want, err = wantOf(x.r, at, x.body.bytes); err != nil {
		return err
	}
	if l, ok := listOf(x.r, at.Endpoint); ok && known {
		return rt.list(x, l)
	}
	rt.forward(x)
	return nil
}

// forward sends the request of an exchange to its cell, and passes the answer on.
func (rt *Router) forward(x *exchange) {
	r := x.r.WithContext(contextWith(x.r.Context(), x))
	r.Body = http.NoBody // what the cell gets is x.body
	rt.proxy.ServeHTTP(x, r)
}

// rewrite makes the request to a cell: as it came, without what belongs to the
// connection of the client.
func (rt *Router) rewrite(p *httputil.ProxyRequest) {
	p.Out.Host = p.In.Host
	p.Out.URL.RawQuery = p.In.URL.RawQuery // the proxy leaves out what it cannot parse
	for _, name := range []string{"Expect", "Upgrade", "Connection"} {
		p.Out.Header.Del(name)
	}
	if proto := p.In.Header.Values("X-Forwarded-Proto"); len(proto) > 0 {
		p.Out.Header["X-Forwarded-Proto"] = proto // a cell makes links with it
	}
	p.Out.Header.Set("X-Forwarded-For", rt.forwardedFor(p.In))
}

// forwardedFor returns the addresses from the client to the router. Only proxies that
// are trusted may name the addresses before them: cells that trust the router believe it.
func (rt *Router) forwardedFor(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	peer, err := netip.ParseAddr(host)
	before := r.Header.Values("X-Forwarded-For")
	trusted := err == nil && slices.ContainsFunc(rt.cfg.Proxies, func(p netip.Prefix) bool { return p.Contains(peer.Unmap().WithZone("")) })
	if !trusted || len(before) == 0 {
		return host
	}
	return strings.Join(before, ", ") + ", " + host
}

// readyz reports whether the router can route.
func (rt *Router) readyz(x *exchange) {
	switch {
	case rt.isDraining():
		x.answer(http.StatusServiceUnavailable, map[string]string{"status": "unready", "reason": "the router stops"})
	case !rt.cfg.Table.Ready():
		x.answer(http.StatusServiceUnavailable, map[string]string{"status": "unready", "reason": "the router does not know its cells yet"})
	default:
		x.answer(http.StatusOK, map[string]string{"status": "ready"})
	}
}

// language returns the language for the player behind a request.
func (rt *Router) language(r *http.Request) dreamcore.Language {
	return server.PreferredLanguage(r.Header, rt.cfg.Language)
}

// bufferBytes is small, since every stream keeps a buffer.
const bufferBytes = 2 << 10

// buffers implements httputil.BufferPool.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferBytes]byte); ok {
		return p[:]
	}
	return make([]byte, bufferBytes)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[bufferBytes]byte)(p)) }
