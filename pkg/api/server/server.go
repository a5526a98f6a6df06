// Package server is the HTTP service: routes in every address form that
// clients of the old backend know, authentication, bounded request bodies,
// and streams of server-sent events.
//
// A request passes one line of steps, each of which may refuse it:
//
//	address → method → secret → body → fields → the endpoint's own work
//
// Nothing of a body is read before the secret is known to be right, and
// nothing is reserved before the fields are. A generation belongs to the
// generator, which is told for how long each client follows it and cancels the
// one that has lost its last client; its events stay in the journal.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
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
	// DefaultMaxBody holds a prompt of the largest size with every byte of it
	// written as \u00XX, which is the longest way to write it.
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
	// journal. The client is a listener of the job until ctx ends. CodeBusy:
	// the queue is full, or the user has too many jobs.
	Submit(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (job string, err error)
	// Attach adds a listener to a job until ctx ends. A job that has ended, or
	// never was, has none.
	Attach(ctx context.Context, job string)
	// Cancel stops a job; one that has ended, or never was, is left alone.
	Cancel(job string)
	// State returns the state of a job that has not ended, and whether it was
	// cancelled; ok is false for others.
	State(job string) (state dreamcore.JobState, cancelled, ok bool)
	// Prewarm makes the user's sandbox ready and tells its name and whether it
	// was ready already. CodeBusy: there is no room for one now.
	Prewarm(ctx context.Context, user dreamcore.UserID) (already bool, name string, err error)
}

// Journal is where the events of jobs are read; *journal.Store is one.
type Journal interface {
	// Reader follows a job from the event after the given id. The server
	// closes it.
	Reader(job string, after uint64) (*journal.Reader, error)
	// Last returns the last event of a job so far, nil if there is none yet.
	// Both fail with CodeNotFound for an unknown job.
	Last(job string) (dreamcore.Event, error)
}

// Prober runs the checks of the test endpoints; *probe.Prober is one.
type Prober interface {
	SandboxIO(ctx context.Context) (probe.IOResult, error)
	GVisor(ctx context.Context) (probe.Kernel, error)
	Stream(ctx context.Context, emit func(dreamcore.Event) error) error
	Volume(ctx context.Context) (probe.VolumeResult, error)
	// Deep runs one of the deep checks. CodeInvalid: there is none of that
	// name, or the nonce is none.
	Deep(ctx context.Context, check, nonce string) (probe.Report, error)
}

// Config of a Server. Zero values of Limits mean the defaults.
type Config struct {
	Version         string          // what /health reports
	Secrets         func() []string // the secrets that are valid now; asked at every request
	Generator       Generator
	Journal         Journal
	Prober          Prober
	Projects        Projects
	Editor          Editor
	Skills          Skills
	Previews        Previews           // nil: none
	Prompts         Prompts            // nil: there are no prompt endpoints
	Health          func() error       // the reason why no game can be made now; nil: never one
	DefaultLanguage dreamcore.Language // of clients that name none; default English
	Logger          *slog.Logger       // nil: no log
	Audit           *audit.Log         // takes wrong secrets; nil: none are written down
	Limits          Limits
}

// Limits bounds what clients may take of the server.
type Limits struct {
	MaxBody           int64         // bytes of a request body
	MaxApplyBody      int64         // the same of apply_files, which brings whole files
	MaxApplyBytes     int64         // of all bodies of apply_files that are worked on at once
	ApplyPatience     time.Duration // how long one waits for its part of them
	MaxHeaderBytes    int           // bytes of a request's header
	MaxHeaders        int64         // bytes of the headers of all requests, beyond the first 16 KiB of each
	MaxChecks         int           // checks (test_*) that run at once
	MaxWaitingChecks  int           // checks that wait for their turn
	KeepAlive         time.Duration // silence in a stream before a comment is sent
	WriteTimeout      time.Duration // without progress, before a client is dropped
	ReadHeaderTimeout time.Duration // for the header of a request
	ReadTimeout       time.Duration // for its body
	IdleTimeout       time.Duration // between two requests of a connection
	GraceLimit        time.Duration // for open streams when the server stops
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
	routes routes // of the table alone; see currentRoutes

	prompts routing

	refusals *refusals

	checks  chan struct{} // has a value for each check that runs
	waiting atomic.Int64  // checks that run or wait

	applied *semaphore.Weighted // bytes of the bodies of apply_files

	walks      *admission.Limiter  // of list_files
	largeLists *semaphore.Weighted // lists that are sent
}

// New returns a Server. It refuses, with CodeSetup, to be one that lets
// everybody in or that has no use.
func New(cfg Config) (*Server, error) {
	if cfg.Secrets == nil || !anySecret(cfg.Secrets()) {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "no internal secret is set: the service would refuse every request",
			Hint: "create it with: dreamcore setup",
		}
	}
	if cfg.Generator == nil || cfg.Journal == nil || cfg.Prober == nil || cfg.Projects == nil || cfg.Editor == nil || cfg.Skills == nil {
		return nil, errors.New("server: Generator, Journal, Prober, Projects, Editor and Skills are needed")
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
// a body and on idle connections are the business of the http.Server around
// it: Serve has them.
func (s *Server) Handler() http.Handler { return s.previewsFirst(http.HandlerFunc(s.serve)) }

// Serve answers requests that come in on ln until ctx ends, then closes ln and
// lets what is open come to its end, for as long as Limits.GraceLimit; what is
// still open then is cut. It returns when no request is being served any more:
// nil after such a stop, an error when ln failed.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	open := &inFlight{}
	srv := &http.Server{
		Handler:                      trackHeaders(open.track(s.Handler())),
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext:                  s.prepare,
		ConnState:                    followHeaders,
		ReadHeaderTimeout:            s.limits.ReadHeaderTimeout,
		ReadTimeout:                  s.limits.ReadTimeout,
		IdleTimeout:                  s.limits.IdleTimeout,
		MaxHeaderBytes:               s.maxHeaderBytes(),
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(s.boundHeaders(ln)) }()
	var failed error
	select {
	case failed = <-ended:
		failed = fmt.Errorf("accept connections on %s: %w", ln.Addr(), failed)
		cut(failed)
		_ = srv.Close()
	case <-ctx.Done():
		s.log.Info("the service stops", "grace", s.limits.GraceLimit)
		s.stop(ctx, srv, cut)
		<-ended // http.ErrServerClosed
	}
	open.wait()
	s.tellSuppressed(s.refusals.rest())
	return failed
}

var errStopping = errors.New("the service has stopped")

// stop closes the listener and idle connections, and waits for the others.
func (s *Server) stop(ctx context.Context, srv *http.Server, cut context.CancelCauseFunc) {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.GraceLimit)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		s.log.Warn("open requests are cut: they did not end in time", "grace", s.limits.GraceLimit)
		cut(errStopping)
		_ = srv.Close()
	}
}

// inFlight counts the requests that are being served. http.Server.Close does
// not wait for their handlers.
type inFlight struct {
	mu    sync.Mutex
	count int
	idle  chan struct{} // closed at count 0; nil until somebody waits
}

func (f *inFlight) track(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.count++
		stopped := f.idle != nil
		f.mu.Unlock()
		defer f.leave()
		if stopped {
			panic(http.ErrAbortHandler) // its connection is closed already
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
