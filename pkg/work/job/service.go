// Package job is the use case of the product: a prompt becomes a game. It admits
// the request, runs the agent in the user's workspace, writes every event to the
// journal of the job, saves the version, and ends with exactly one terminal
// event.
//
// A job belongs to the service, which counts its listeners: when the last one
// has left, the job is cancelled, unless the request asked for detach (see
// listener.go). Its journal keeps all of its events.
//
// The files: service.go submits, closes and recovers jobs, admission.go decides
// which of them run, listener.go cancels those without a listener. job.go is the
// path of one job, run.go one run of the agent, space.go and budget.go are the
// bounds of a job, save.go and skills.go its version, failure.go maps errors
// to the failures that clients see. proof.go checks a machine before it serves.
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

// Parts are the components that a Service uses. The caller closes them after the
// service.
type Parts struct {
	Sandboxes workspace.Sandboxes
	Gateway   *gateway.Gateway
	Volumes   *volume.Store
	History   *history.Store
	Journal   *journal.Store
	Ledger    *usage.Ledger // nil if nothing is counted or limited
	Audit     *audit.Log    // may be nil
	SocketDir string        // where workspaces get directories for their sockets
	Egress    *egress.Proxy // nil if no host is allowed
	Logger    *slog.Logger  // may be nil
	Ready     func() error  // returns why no job can run now, or nil; may be nil
}

func (p Parts) workspace() workspace.Parts {
	return workspace.Parts{
		Sandboxes: p.Sandboxes, Gateway: p.Gateway, Volumes: p.Volumes, Egress: p.Egress,
		Audit: p.Audit, SocketDir: p.SocketDir, Logger: p.Logger,
	}
}

// Settings may change while the service runs; a job keeps those it began with.
type Settings struct {
	// CommitMessage names the versions that jobs make: a template, as
	// history.ParseName checks it; "" takes the player's own words.
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
	Pool        workspace.Limits // of the workspaces

	DisconnectGrace time.Duration // how long a job runs on after its last listener has left
	RunOn           bool          // jobs run on without listeners
}

func (s *Settings) admission() admissionLimits {
	return admissionLimits{running: s.Running, waiting: s.Waiting, perUser: s.PerUser}
}

func (s *Settings) workspace() workspace.Settings {
	return workspace.Settings{
		Limits: s.Pool, Env: s.Agent.Given,
		Template: workspace.Template{
			Root: s.Root, Limits: s.Limits, AgentFile: s.AgentFile, AgentPath: s.Agent.Path,
			Home: s.Agent.Home, Socket: s.Agent.Socket, UID: s.Agent.UID, GID: s.Agent.GID,
		},
	}
}

// Service runs jobs. Its methods are safe for concurrent use.
type Service struct {
	parts      Parts
	log        *slog.Logger
	settings   atomic.Pointer[Settings]
	admission  *admission
	workspaces *workspace.Pool

	run    context.Context // parent of every job's
	cancel context.CancelCauseFunc

	mu     sync.Mutex // guards the fields below, and those of liveJob
	closed bool
	jobs   map[string]*liveJob // that have not ended
	wg     sync.WaitGroup
}

// Causes that end jobs before their time.
var (
	errStopping  = errors.New("the service is stopping")
	errCancelled = errors.New("the job was cancelled")
	errAbandoned = errors.New("its last listener has left")
	errReplaced  = errors.New("its last listener has left and the user asked for another game")
)

// New creates a service that runs until Close.
func New(parts Parts, s Settings) (*Service, error) {
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	svc := &Service{parts: parts, log: parts.Logger, admission: newAdmission(s.admission()), jobs: map[string]*liveJob{}}
	svc.settings.Store(&s)
	var err error
	if svc.workspaces, err = workspace.New(parts.workspace(), s.workspace()); err != nil {
		return nil, err
	}
	svc.run, svc.cancel = context.WithCancelCause(context.Background())
	return svc, nil
}

// Apply changes the settings for jobs that begin after it. Workspaces that were
// created from other settings are replaced before they are used again.
func (s *Service) Apply(settings Settings) error {
	if err := s.workspaces.Apply(settings.workspace()); err != nil {
		return err
	}
	s.settings.Store(&settings)
	s.admission.resize(settings.admission())
	return nil
}

// Prewarm makes the user's workspace ready ahead of a job and returns its name.
// It reports whether it existed already. It fails with CodeBusy while the machine
// has no room for another one.
func (s *Service) Prewarm(ctx context.Context, user dreamcore.UserID) (already bool, name string, err error) {
	already, err = s.workspaces.Prewarm(ctx, user)
	return already, workspace.Name(user), err
}

// Sandboxes lists the workspaces.
func (s *Service) Sandboxes() []workspace.Info { return s.workspaces.List() }

// StopSandbox is Stop of the pool.
func (s *Service) StopSandbox(ctx context.Context, name string) error {
	return s.workspaces.Stop(ctx, name)
}

// SandboxJobs is Jobs of the pool.
func (s *Service) SandboxJobs(name string) ([]string, error) { return s.workspaces.Jobs(name) }

// Exec is Exec of the pool.
func (s *Service) Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error) {
	return s.workspaces.Exec(ctx, name, cmd)
}

// Submit begins a job and returns its id, which is also the id of its journal.
// The caller is the job's first listener, until ctx ends. Jobs of the same user
// without a listener are cancelled, unless they run on without one. It fails with
// CodeBusy when too many jobs wait.
func (s *Service) Submit(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the service is stopping", Hint: "try again in a moment"}
	}
	slot, err := s.admission.enter(request.User)
	if err != nil {
		return "", err
	}
	id := uuid.NewString()
	log, err := s.parts.Journal.Create(id)
	if err != nil {
		slot.leave()
		return "", fmt.Errorf("begin job: %w", err)
	}
	log.SetOwner(request.User)
	s.replace(request.User) // only now: a refused request replaces no job
	j := &job{
		id: id, request: request, lang: lang, journal: log, slot: slot, service: s,
		settings: *s.settings.Load(), began: time.Now(),
		log: s.log.With("job", id, "user", string(request.User), "project", string(request.Project)),
	}
	run, stop := context.WithCancelCause(s.run)
	l := &liveJob{
		id: id, user: request.User, slot: slot, stop: stop,
		grace: j.settings.DisconnectGrace, runOn: j.settings.RunOn || request.Detach,
	}
	s.jobs[id] = l
	s.listen(ctx, l)
	s.wg.Go(func() {
		defer s.forget(l)
		defer slot.leave()
		j.work(run)
	})
	return id, nil
}

// Close refuses new jobs and waits for those that run. When ctx ends, it cancels
// them, and still waits until each has written its last event. Then it closes the
// workspaces.
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
	return s.workspaces.Close(closing)
}

// Recover writes the terminal event of every job that a crash has left without
// one. It must be called once, before the first Submit.
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

// recoverJob writes the terminal event of a job. It reports false for a job that
// another process is writing, or has ended or removed meanwhile.
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
