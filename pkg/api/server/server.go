// Package server is the HTTP API: routes in every address form that clients of
// the old backend use, authentication, bounded request bodies, and streams of
// server-sent events.
//
// A request passes these steps, each of which may refuse it:
//
//	address → method → secret → body → fields → the endpoint's own work
//
// The body is not read before the secret has been checked, and nothing is
// reserved before the fields have been. A generation belongs to the generator.
// The server tells it how long each client listens, and the generator cancels a
// job that has lost its last listener. Events stay in the journal.
//
// The files: front.go accepts connections; route.go, auth.go and exchange.go handle
// every request, stream.go and answer.go every response; the other files hold the
// endpoints.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/system/admission"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

// Defaults of Config.
const (
	// DefaultMaxBody fits the largest prompt with every byte encoded as \u00XX,
	// which is the longest encoding.
	DefaultMaxBody           = 6*dreamcore.MaxPromptBytes + 64<<10
	DefaultMaxApplyBody      = 32 << 20
	DefaultMaxApplyBytes     = 48 << 20
	DefaultApplyPatience     = 30 * time.Second
	DefaultMaxHeaderBytes    = 64 << 10
	DefaultMaxHeaders        = 48 << 20
	DefaultMaxChecks         = 4
	DefaultMaxWaitingChecks  = 256
	DefaultKeepAlive         = 15 * time.Second
	DefaultWriteTimeout      = 30 * time.Second
	DefaultReadHeaderTimeout = 10 * time.Second
	DefaultReadTimeout       = 30 * time.Second
	DefaultIdleTimeout       = 2 * time.Minute
	DefaultGraceLimit        = 20 * time.Second
)

// Generator runs generations.
type Generator interface {
	// Submit accepts a request and returns the job, whose log is then in the
	// journal. The client is a listener of the job until ctx is done. The error
	// is CodeBusy if the queue is full or the user has too many jobs.
	Submit(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (job string, err error)
	// Attach adds a listener to a job until ctx is done. It does nothing if the
	// job has ended or does not exist.
	Attach(ctx context.Context, job string)
	// Cancel stops a job. It does nothing if the job has ended or does not exist. The
	// error is CodeMoving if the job waits for its user to move to another cell.
	Cancel(job string) error
	// Warm starts the agent ahead of the user's next job in a project, which it makes
	// if there is none, if the machine could run another job.
	Warm(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID)
	// Hint is Warm in the background, for a project that a client looks at. It
	// creates nothing, and may be called at any rate.
	Hint(user dreamcore.UserID, project dreamcore.ProjectID)
}

// Workspaces prepares sandboxes of users; *workspace.Pool implements it.
type Workspaces interface {
	// Prewarm prepares the user's sandbox and reports whether it already existed.
	// The error is CodeBusy if there is no room for it now.
	Prewarm(ctx context.Context, user dreamcore.UserID) (already bool, err error)
}

// Journal stores the events of jobs; *journal.Store implements it.
type Journal interface {
	// Reader reads a job's events after the given id. The server closes it. The error
	// is CodeNotFound for an unknown job.
	Reader(job string, after uint64) (*journal.Reader, error)
}

// Prober runs the checks of the test endpoints; *probe.Prober implements it.
type Prober interface {
	SandboxIO(ctx context.Context) (probe.IOResult, error)
	GVisor(ctx context.Context) (probe.Kernel, error)
	Stream(ctx context.Context, emit func(dreamcore.Event) error) error
	Volume(ctx context.Context) (probe.VolumeResult, error)
	// Deep runs a deep check. The error is CodeInvalid if the check is unknown or
	// the nonce is malformed.
	Deep(ctx context.Context, check, nonce string) (probe.Report, error)
}

// Config configures a Server. Zero values of Limits select the defaults.
type Config struct {
	Version         string          // reported by /health
	Secrets         func() []string // returns the currently valid secrets; called for every request
	Generator       Generator
	Jobs            Jobs
	Workspaces      Workspaces
	Journal         Journal
	Prober          Prober
	Projects        Projects
	Editor          Editor
	Skills          Skills
	Games           Games              // may be nil; then no game is played and there are no pictures
	CheckApplied    func() bool        // reports whether apply_files plays the game; may be nil
	Previews        Previews           // may be nil
	Prompts         Prompts            // may be nil; then there are no prompt endpoints
	Accounts        Accounts           // may be nil; then users and projects cannot be managed, and no user is blocked
	Moves           Moves              // may be nil; then no user moves between cells
	Health          func() error       // returns why no games can be generated at present, or nil; may be nil
	LinkKey         string             // signs links to jobs together with the current secret; "" if links are off
	CORSOrigins     []string           // of pages that may follow jobs with links
	DefaultLanguage dreamcore.Language // for clients that request none; default English
	Logger          *slog.Logger       // nil discards
	Audit           *audit.Log         // records wrong secrets; may be nil
	Ready           func() []Check     // conditions for games to be made; may be nil
	Metrics         http.Handler       // answers Prometheus; nil if it has another address
	Proxies         []netip.Prefix     // whose X-Forwarded-For counts
	Limits          Limits

	// Observe is called with each request that was answered: the name of its
	// endpoint, "" for an unknown address, and the status. It may be nil.
	Observe func(endpoint string, status int)
}

// Limits bounds the resources that clients can use.
type Limits struct {
	MaxBody           int64         // bytes of a request body
	MaxApplyBody      int64         // the same for apply_files, which carries whole files
	MaxApplyBytes     int64         // of all concurrent bodies of apply_files
	ApplyPatience     time.Duration // how long a request waits for its share of them
	MaxHeaderBytes    int           // bytes of a request's header
	MaxHeaders        int64         // bytes of the headers of all requests, beyond the first 16 KiB of each
	MaxChecks         int           // checks (test_*) running at once
	MaxWaitingChecks  int           // waiting checks
	KeepAlive         time.Duration // idle time in a stream before a comment is sent
	WriteTimeout      time.Duration // without progress, before a client is dropped
	ReadHeaderTimeout time.Duration // for reading the header of a request
	ReadTimeout       time.Duration // for reading its body
	IdleTimeout       time.Duration // between requests of a connection
	GraceLimit        time.Duration // for open requests when the server stops
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.MaxBody, DefaultMaxBody)
	setDefault(&l.MaxApplyBody, DefaultMaxApplyBody)
	setDefault(&l.MaxApplyBytes, DefaultMaxApplyBytes)
	setDefault(&l.ApplyPatience, DefaultApplyPatience)
	l.MaxApplyBytes = max(l.MaxApplyBytes, l.MaxApplyBody)
	setDefault(&l.MaxHeaderBytes, DefaultMaxHeaderBytes)
	setDefault(&l.MaxHeaders, DefaultMaxHeaders)
	setDefault(&l.MaxChecks, DefaultMaxChecks)
	setDefault(&l.MaxWaitingChecks, DefaultMaxWaitingChecks)
	setDefault(&l.KeepAlive, DefaultKeepAlive)
	setDefault(&l.WriteTimeout, DefaultWriteTimeout)
	setDefault(&l.ReadHeaderTimeout, DefaultReadHeaderTimeout)
	setDefault(&l.ReadTimeout, DefaultReadTimeout)
	setDefault(&l.IdleTimeout, DefaultIdleTimeout)
	setDefault(&l.GraceLimit, DefaultGraceLimit)
	return l
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Server is the HTTP service. Its methods are safe for concurrent use.
type Server struct {
	cfg    Config
	limits Limits
	log    *slog.Logger
	routes routes // without prompt endpoints; see currentRoutes

	prompts routing

	refusals *refusals

	checks  chan struct{} // holds a value for each running check
	waiting atomic.Int64  // running and waiting checks

	applied *semaphore.Weighted // bytes of apply_files bodies

	walks      *admission.Limiter  // for list_files
	largeLists *semaphore.Weighted // large lists being sent

	drained atomic.Pointer[time.Time] // when Drain was first called, or nil
	linked  linkedStreams
}

// New returns a Server. It returns CodeSetup without a secret, because every
// request would be refused.
func New(cfg Config) (*Server, error) {
	if cfg.Secrets == nil || !anySecret(cfg.Secrets()) {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "no internal secret is set: the service would refuse every request",
			Hint: "create it with: dreamcore setup",
		}
	}
	if cfg.Generator == nil || cfg.Jobs == nil || cfg.Workspaces == nil || cfg.Journal == nil || cfg.Prober == nil || cfg.Projects == nil || cfg.Editor == nil || cfg.Skills == nil {
		return nil, errors.New("server: Generator, Jobs, Workspaces, Journal, Prober, Projects, Editor and Skills are required")
	}
	if err := checkLinkKey(cfg.LinkKey); err != nil {
		return nil, err
	}
	if cfg.DefaultLanguage == "" {
		cfg.DefaultLanguage = dreamcore.English
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, limits: cfg.Limits.withDefaults(), log: cfg.Logger, refusals: newRefusals()}
	s.routes = newRoutes(s.endpoints())
	s.checks = make(chan struct{}, s.limits.MaxChecks)
	s.walks = admission.New(admission.Limits{Running: maxWalks, Waiting: maxWaiting})
	s.largeLists = semaphore.NewWeighted(maxLargeLists)
	s.applied = semaphore.NewWeighted(s.limits.MaxApplyBytes)
	return s, nil
}

// Handler returns the service as a handler. Limits on headers, on the time for
// a body and on idle connections need an http.Server configured as in Serve.
func (s *Server) Handler() http.Handler { return s.previewsFirst(http.HandlerFunc(s.serve)) }

// Serve serves requests on ln until ctx is done, then closes ln and waits up to
// Limits.GraceLimit for open requests before it cuts them. It returns when no
// request is being served any more: nil after such a stop, an error if ln failed.
// To let jobs end first while everything else is answered, call Drain before ctx
// ends.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	defer func() { s.logSuppressed(s.refusals.flush()) }()
	return Front{
		Handler: s.Handler(), Limits: s.limits, HeaderBytes: s.maxHeaderBytes(), Logger: s.log,
		Stop: func() time.Duration {
			now := time.Now()
			s.drained.CompareAndSwap(nil, &now)
			return s.stopLimit(now)
		},
	}.Serve(ctx, ln)
}
