package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// Config configures a Gateway. A zero field has the default that its comment
// names.
type Config struct {
	// Upstream answers the requests; SetUpstream replaces it. If nil, every
	// request is refused as if there were no key.
	Upstream Upstream
	// Logger receives messages for the operator; nil discards them.
	Logger *slog.Logger
	// Audit records every request; optional.
	Audit *audit.Log
	// ServerTools allows requests in which the API accesses other machines:
	// tools that it runs itself (such as web search), MCP servers, documents and
	// images by URL.
	ServerTools bool

	// IdleLimit is the longest silence within an answer (60 s).
	IdleLimit time.Duration
	// StopLimit is how long an answer may stay open after its stop_reason, when
	// only message_stop is missing (3 s).
	StopLimit time.Duration
	// HeaderLimit is the longest wait for the first byte of a streamed answer
	// (120 s), AnswerLimit for that of an answer that is not streamed (300 s).
	HeaderLimit time.Duration
	AnswerLimit time.Duration
	// BodyReadLimit is the longest time a request body may take (30 s).
	BodyReadLimit time.Duration
	// WriteLimit is the longest time one piece of an answer may wait for the
	// sandbox to read it (60 s).
	WriteLimit time.Duration

	// MaxBody bounds a request body (32 MiB, the API's own limit). All bodies of
	// one grant in memory are bounded by twice that.
	MaxBody int64
	// MaxBodies bounds the bodies of all grants in memory, beyond the first
	// 4 MiB of each grant (96 MiB).
	MaxBodies int64
	// MaxResponse bounds an answer (256 MiB).
	MaxResponse int64
	// MaxConcurrent bounds the concurrent requests of one grant (16), MaxConns
	// the connections to one socket (64).
	MaxConcurrent int
	MaxConns      int
	// RetryLimit is the number of consecutive failures of one kind after which
	// the CLI may retry (2); from the next one on it is told not to. Negative
	// allows no retry.
	RetryLimit int
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.IdleLimit = cmp.Or(c.IdleLimit, 60*time.Second)
	c.StopLimit = cmp.Or(c.StopLimit, 3*time.Second)
	c.HeaderLimit = cmp.Or(c.HeaderLimit, 120*time.Second)
	c.AnswerLimit = cmp.Or(c.AnswerLimit, 300*time.Second)
	c.BodyReadLimit = cmp.Or(c.BodyReadLimit, 30*time.Second)
	c.WriteLimit = cmp.Or(c.WriteLimit, 60*time.Second)
	c.MaxBody = cmp.Or(c.MaxBody, 32<<20)
	c.MaxBodies = cmp.Or(c.MaxBodies, 96<<20)
	c.MaxResponse = cmp.Or(c.MaxResponse, 256<<20)
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, 16)
	c.MaxConns = cmp.Or(c.MaxConns, 64)
	c.RetryLimit = max(cmp.Or(c.RetryLimit, 2), 0)
	return c
}

// Gateway owns the sockets. It is safe for concurrent use.
type Gateway struct {
	cfg      Config
	upstream atomic.Pointer[Upstream]
	sockets  socket.Set[*Socket]
	bodies   *semaphore.Weighted // bytes of Config.MaxBodies
}

// New returns a Gateway without sockets. The caller must call Close.
func New(cfg Config) *Gateway {
	g := &Gateway{cfg: cfg.withDefaults()}
	g.bodies = semaphore.NewWeighted(g.cfg.MaxBodies)
	g.SetUpstream(cfg.Upstream)
	return g
}

// SetUpstream makes u answer the requests that start from now on; a running
// request completes at the upstream where it started. The caller may close the
// old upstream, if it has a Close, at any time: running requests are not
// disturbed.
func (g *Gateway) SetUpstream(u Upstream) {
	if u == nil {
		u = noUpstream{}
	}
	g.upstream.Store(&u)
}

// Close closes every socket as Socket.Close does and rejects new ones. If ctx
// ends first, it returns ctx's error while the closing continues; calling it
// again waits again.
func (g *Gateway) Close(ctx context.Context) error {
	if err := g.sockets.Close(ctx); err != nil {
		return fmt.Errorf("close model gateway: %w", err)
	}
	return nil
}
