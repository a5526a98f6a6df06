// Package job is the use case: a request becomes a game. It admits the
// request, runs the agent in a sandbox on the user's project, writes every
// event into the job's journal, saves the version, and ends with exactly one
// terminal event.
//
// A job belongs to the service, which counts its listeners: when the last one
// has gone, the job is cancelled, unless it was asked for with detach (see
// listener.go). Its journal keeps what has happened.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Sandboxes makes sandboxes; every sandbox.Provider does.
type Sandboxes interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error)
}

// Parts are what a Service works with. They are the caller's to close, after
// the service.
type Parts struct {
	Sandboxes Sandboxes
	Gateway   *gateway.Gateway
	Volumes   *volume.Store
	History   *history.Store
	Journal   *journal.Store
	Books     *usage.Book   // nil: nothing is counted or limited
	Audit     *audit.Log    // nil: nothing is written down
	SocketDir string        // where the gateway's sockets of sandboxes are made
	Egress    *egress.Proxy // the way out of sandboxes; nil: there is none
	Logger    *slog.Logger
	Ready     func() error // the reason why no job can run now; nil: never one
}

// Settings may change while the service runs; a job keeps those it began with.
type Settings struct {
	// CommitMessage names the versions that jobs make: a template, as
	// history.ParseName checks it; "" for the player's own words.
	CommitMessage string

	Root        sandbox.Root
	Limits      sandbox.Limits
	Agent       agent.Config
	AgentFile   string           // the CLI on the host
	TimeLimit   time.Duration    // of one run of the agent
	OutputLines int              // lines of the agent that are forwarded
	Running     int              // generations at once
	Waiting     int              // generations in the queue
	PerUser     int              // generations of one user that wait behind the user's first
	Pool        workspace.Limits // of the sandboxes that are kept

	DisconnectGrace time.Duration // how long a job runs on after its last listener has gone
	RunOn           bool          // jobs run on without listeners
}

// Service makes games. Its methods are safe for concurrent use.
type Service struct {
	parts     Parts
	log       *slog.Logger
	settings  atomic.Pointer[Settings]
	admission *admission
	pool      *workspace.Pool[*desk]

	run    context.Context // of every job
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	jobs   map[string]*liveJob        // that have not ended
	desks  map[dreamcore.UserID]*desk // the newest of each user, for those who ask by name
	wg     sync.WaitGroup
}

// Causes that end jobs before their time.
var (
	errStopping  = errors.New("the service is stopping")
	errCancelled = errors.New("the job was cancelled")
	errAlone     = errors.New("its last listener has gone")
	errReplaced  = errors.New("its last listener has gone and the user asked for another game")
)

// New makes a service that runs until Close.
func New(parts Parts, s Settings) (*Service, error) {
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	svc := &Service{
		parts: parts, log: parts.Logger, admission: newAdmission(s.admission()),
		jobs: map[string]*liveJob{}, desks: map[dreamcore.UserID]*desk{},
	}
	svc.settings.Store(&s)
	var err error
	svc.pool, err = workspace.New(workspace.Config[*desk]{
		Limits: s.Pool, Logger: parts.Logger,
		Make: func(ctx context.Context, user dreamcore.UserID) (*desk, error) {
			d, err := svc.makeDesk(ctx, user)
			if err == nil {
				svc.remember(d)
			}
			return d, err
		},
	})
	if err != nil {
		return nil, err
	}
	parts.Volumes.OnRepair(svc.evict)
	svc.run, svc.cancel = context.WithCancelCause(context.Background())
	return svc, nil
}

// evict ends the sandbox of a user whose disk is to be repaired.
func (s *Service) evict(ctx context.Context, user dreamcore.UserID) error {
	if err := s.pool.Stop(ctx, workspace.Name(user)); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return err
	}
	return nil
}

// Apply changes the settings for jobs that begin after it. Sandboxes that were
// made with others are replaced before they are used again.
func (s *Service) Apply(settings Settings) error {
	if err := s.pool.Apply(settings.Pool); err != nil {
		return err
	}
	s.settings.Store(&settings)
	s.admission.resize(settings.admission())
	return nil
}

func (s Settings) admission() admissionLimits {
	return admissionLimits{running: s.Running, waiting: s.Waiting, perUser: s.PerUser}
}

// Submit begins a job and returns its id, by which its events are in the
// journal. The caller is the job's first listener, until ctx ends. Jobs of the
// same user without a listener are cancelled, unless they run on without one.
// It fails with CodeBusy when too many jobs wait.
func (s *Service) Submit(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the service is stopping", Hint: "try again in a moment"}
	}
	t, err := s.admission.enter(request.User)
	if err != nil {
		return "", err
	}
	id := uuid.NewString()
	log, err := s.parts.Journal.Create(id)
	if err != nil {
		t.leave()
		return "", fmt.Errorf("begin job: %w", err)
	}
	s.replace(request.User) // not for a job that is refused
	j := &job{
		id: id, request: request, lang: lang, journal: log, ticket: t, service: s,
		settings: *s.settings.Load(), began: time.Now(),
		log: s.log.With("job", id, "user", string(request.User), "project", string(request.Project)),
	}
	run, stop := context.WithCancelCause(s.run)
	l := &liveJob{
		id: id, user: request.User, ticket: t, stop: stop,
		grace: j.settings.DisconnectGrace, runOn: j.settings.RunOn || request.Detach,
	}
	s.jobs[id] = l
	s.listen(ctx, l)
	s.wg.Go(func() {
		defer s.forget(l)
		defer t.leave()
		j.work(run)
	})
	return id, nil
}

// Close takes no more jobs and waits for those that run. When ctx ends it
// stops them, and still waits until each has written its last event. Then it
// ends the sandboxes.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.cancel(errStopping)
		<-done
	}
	s.cancel(errStopping)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	return s.pool.Close(closing)
}

// Recover gives every job that a crash left without an end its terminal event.
// It is called once, before the first Submit.
func (s *Service) Recover() error {
	ids, err := s.parts.Journal.Unfinished()
	if err != nil {
		return fmt.Errorf("find unfinished jobs: %w", err)
	}
	var errs []error
	for _, id := range ids {
		ended, err := s.recoverJob(id)
		if err != nil {
			errs = append(errs, fmt.Errorf("end unfinished job %s: %w", id, err))
		}
		if ended {
			s.log.Warn("ended a job that an earlier run left unfinished", "job", id)
		}
	}
	return errors.Join(errs...)
}

// recoverJob ends a job. One that another process has meanwhile ended, removed
// or turned out to be writing needs no end from us.
func (s *Service) recoverJob(id string) (ended bool, err error) {
	log, err := s.parts.Journal.Reopen(id)
	switch dreamcore.CodeOf(err) {
	case dreamcore.CodeConflict, dreamcore.CodeNotFound:
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = log.Append(dreamcore.ErrorEvent(dreamcore.ExitFailure(dreamcore.ExitTerminated), dreamcore.English))
	return err == nil, errors.Join(err, log.Close())
}
