package gateway

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// Config of a Gateway. A zero field has the default that its comment names.
type Config struct {
	// Upstream answers the requests; SetUpstream replaces it. Without one
	// every request is refused as if there were no key.
	Upstream Upstream
	// Logger takes what an operator must know; nil discards it.
	Logger *slog.Logger
	// Audit takes every request; nil: none is written down.
	Audit *audit.Log
	// Models are the models a job may use, by exact name; empty allows all.
	Models []string
	// ServerTools lets requests ask the API to reach other machines: tools
	// that it runs itself (web search and the like), MCP servers, documents
	// and images by their address.
	ServerTools bool

	// IdleLimit is the longest silence within an answer (60 s).
	IdleLimit time.Duration
	// StopLimit is how long an answer may stay open after its stop_reason, when
	// all that is missing is message_stop (3 s).
	StopLimit time.Duration
	// HeaderLimit is the longest wait for the first byte of a streamed answer
	// (120 s), AnswerLimit for that of an answer in one piece (300 s).
	HeaderLimit time.Duration
	AnswerLimit time.Duration
	// BodyReadLimit is the longest time a request body may take (30 s).
	BodyReadLimit time.Duration
	// WriteLimit is the longest time one piece of an answer may wait for the
	// sandbox to read it (60 s).
	WriteLimit time.Duration

	// MaxBody bounds a request body (32 MiB, the API's own limit). The bodies
	// of one grant that are in memory at one time are bounded by twice that.
	MaxBody int64
	// MaxBodies bounds the bodies of all grants that are in memory at one time,
	// beyond the first 4 MiB of each grant (96 MiB).
	MaxBodies int64
	// MaxResponse bounds an answer (256 MiB).
	MaxResponse int64
	// MaxConcurrent bounds the requests of one grant at one time (16),
	// MaxConns the connections to one socket (64).
	MaxConcurrent int
	MaxConns      int
	// RetryLimit is how many failures of one kind in a row the CLI may try
	// again after (2); from the next one on it is told not to. Negative: none.
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

// Gateway owns the sockets. Its methods may be called at the same time.
type Gateway struct {
	cfg      Config
	upstream atomic.Pointer[Upstream]
	sockets  socket.Set[*Socket]
	bodies   *semaphore.Weighted // bytes of Config.MaxBodies
}

// New returns a Gateway without sockets. The caller calls Close at the end.
func New(cfg Config) *Gateway {
	g := &Gateway{cfg: cfg.withDefaults()}
	g.bodies = semaphore.NewWeighted(g.cfg.MaxBodies)
	g.SetUpstream(cfg.Upstream)
	return g
}

// SetUpstream makes u answer the requests that begin from now on; a running
// one ends at the upstream where it began. The caller closes the old upstream,
// if it has a Close, when it likes: running requests are not disturbed.
func (g *Gateway) SetUpstream(u Upstream) {
	if u == nil {
		u = noUpstream{}
	}
	g.upstream.Store(&u)
}

// Close closes every socket as Socket.Close does and refuses new ones. When
// ctx ends first it returns ctx's error while the closing goes on; calling it
// again waits again.
func (g *Gateway) Close(ctx context.Context) error {
	if err := g.sockets.Close(ctx); err != nil {
		return fmt.Errorf("close model gateway: %w", err)
	}
	return nil
}

// add registers s, or reports that the gateway is closed.
func (g *Gateway) add(s *Socket) error {
	if !g.sockets.Add(s) {
		return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the model gateway is closed"}
	}
	return nil
}
