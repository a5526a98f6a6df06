// Package job is the use case of the product: a prompt becomes a game. It admits
// the request, runs the agent in the user's workspace, writes every event to the
// journal of the job, saves the version, and ends with exactly one terminal
// event.
//
// A job belongs to the service, which counts its listeners: when the last one
// has left, the job is cancelled, unless the request asked for detach (see
// listener.go). Its journal keeps all of its events.
//
// A stop or a crash of the service does not end a job: the next process takes it up
// again, in its place of the queue, or with another attempt of the agent.
//
// The files: service.go submits jobs and closes the service, key.go joins repetitions
// of a request, recover.go takes up the jobs of an earlier process, remnant.go ends
// those that do not go on, admission.go decides which jobs run, listener.go cancels
// those without a listener. job.go is the path of one job, end.go its end, run.go one
// run of the agent, warm.go starts the agent ahead of a job, space.go and budget.go are
// the bounds of a job, save.go and skills.go its version, acceptance.go plays the game,
// repair.go asks the agent to mend it, failure.go maps errors to the failures that
// clients see. note.go adds to the log of a job, past.go reads it, record.go shows the
// records, index.go keeps the index like the logs. erase.go ends and removes the jobs of
// a user or project, leave.go leaves them to another cell. proof.go checks a machine before it serves.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Parts are the components that a Service uses. The caller closes them after the
// service.
type Parts struct {
	Workspaces *workspace.Pool
	Volumes    *volume.Store
	History    *history.Store
	Journal    *journal.Store
	Ledger     *usage.Ledger // nil if nothing is counted or limited
	Audit      *audit.Log    // may be nil
	Logger     *slog.Logger  // may be nil
	Ready      func() error  // returns why no job can run now, or nil; may be nil
	// Admit returns why a user must not have a job in a project, or nil; may be nil. It
	// is called for every new job, in one step with making it: a job that was admitted
	// before the answer changed is found by End.
	Admit func(user dreamcore.UserID, project dreamcore.ProjectID) error
	// Away reports whether the jobs of a user belong to another cell, so that none is taken
	// up here; may be nil.
	Away func(dreamcore.UserID) bool
	// Lists reports whether List returns the jobs of a user; may be nil.
	Lists func(dreamcore.UserID) bool
	// CheckWebhook returns why requests must not name a webhook at an address, or nil. It
	// is called for every new request that names one. If it is nil, none may.
	CheckWebhook func(address string) error
	Records      *record.Store // nil: jobs that have ended are not listed

	Checker Checker // plays games in jobs; nil: none is checked

	// Play plays a game outside of a job, in a sandbox of its own. An error means that
	// there is no verdict. It may be nil.
	Play func(ctx context.Context, game acceptance.Source) (verdict.Report, error)

	// Redact removes secrets from a text; may be nil.
	Redact func(string) string
	// Ended is called with the record of each job that has ended, before the index
	// notes that, so at least once: a crash in between repeats the call after the
	// restart. It must not wait for a client. It may be nil.
	Ended func(dreamcore.Job)
	// Tell tells other programs that a job has ended, before the index notes that. After
	// an error it is called again, by Retell or another process, until it returns nil: at
	// least once for each job whose log is kept that long. It must not wait for a client.
	// It may be nil.
	Tell func(dreamcore.Job) error
	// AgentStarted is called when a job gets its agent; may be nil.
	AgentStarted func(AgentStart)
	// Resume says that another process takes up the jobs that Close or a crash
	// leaves without an end. Without it, Close ends them.
	Resume bool
}

// Settings may change while the service runs; a job keeps those it began with.
type Settings struct {
	// CommitMessage names the versions that jobs make: a template, as
	// history.ParseName checks it; "" takes the player's own words.
	CommitMessage string

	Agent       agent.Config
	TimeLimit   time.Duration // of one run of the agent
	OutputLines int           // lines of the agent that are forwarded
	Running     int           // generations at once
	Waiting     int           // generations in the queue
	PerUser     int           // generations of one user that wait behind the user's first

	DisconnectGrace time.Duration // how long a job runs on after its last listener has left
	RunOn           bool          // jobs run on without listeners
	Attempts        int           // of a job that a stop or a crash of the service cuts; 0 means 1

	Acceptance        Acceptance
	AcceptanceRepairs int           // how often the agent may mend a game that does not play
	AcceptanceLimit   time.Duration // of one check; 0: games are not checked
}

func (s *Settings) admission() admissionLimits {
	return admissionLimits{running: s.Running, waiting: s.Waiting, perUser: s.PerUser}
}

// Service runs jobs. Its methods are safe for concurrent use.
type Service struct {
	parts     Parts
	log       *slog.Logger
	settings  atomic.Pointer[Settings]
	admission *admission
	back      time.Duration // how much longer than usual listeners may take to come back after a restart

	run    context.Context // parent of every job's
	cancel context.CancelCauseFunc

	// submitting is held while a job is made, which writes to the disk: by Submit, and
	// by what must not meet a job that is half made. It comes before mu.
	submitting sync.Mutex

	takingUp sync.Mutex // held while jobs of an earlier process are taken up; comes before submitting

	reconciling sync.Mutex // held by Reconcile; comes before takingUp

	retell atomic.Bool // Retell has something to do

	warming *semaphore.Weighted // bounds the starts of agents ahead of jobs

	// erasing is held while logs are removed together with their rows, and while rows
	// are written that were read from logs.
	erasing sync.Mutex

	mu      sync.Mutex          // guards the fields below, and those of liveJob; not held over work on the disk
	closed  bool                // changes only while submitting is held, too
	jobs    map[string]*liveJob // that this process runs or has in its queue
	checks  map[*liveCheck]bool // outside of jobs
	unended map[string]end      // of jobs whose logs could not be ended, by job
	// recovering is closed when no job of an earlier process remains to be taken up; nil
	// without Recovery.
	recovering <-chan struct{}
	recoverErr error                 // why they could not be taken up: no new job may get ahead of them
	remnants   map[string]*sync.Once // by job
	// reported has the jobs that Ended was called for and whose end is not noted yet.
	reported map[string]bool
	wg       sync.WaitGroup
}

// Causes that end jobs before their time.
var (
	errStopping  = errors.New("the service is stopping")
	errSuspended = errors.New("the service is stopping; another process takes the job up")
	errCancelled = errors.New("the job was cancelled")
	errAbandoned = errors.New("its last listener has left")
	errReplaced  = errors.New("its last listener has left and the user asked for another game")
)

// New creates a service that runs until Close.
func New(parts Parts, s Settings) *Service {
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	svc := &Service{parts: parts, log: parts.Logger, admission: newAdmission(s.admission()), back: returnGrace, jobs: map[string]*liveJob{}, checks: map[*liveCheck]bool{}, unended: map[string]end{}, remnants: map[string]*sync.Once{}, reported: map[string]bool{}, warming: semaphore.NewWeighted(maxWarmUp)}
	svc.settings.Store(&s)
	svc.run, svc.cancel = context.WithCancelCause(context.Background())
	if parts.Workspaces != nil { // commands that only change something have none
		parts.Workspaces.Parks(parking{svc})
	}
	return svc
}

// Apply changes the settings for jobs that begin after it.
func (s *Service) Apply(settings Settings) {
	s.settings.Store(&settings)
	s.admission.resize(settings.admission())
}

// Submit begins a job and returns its id, which is also the id of its journal.
// Everything that is needed to run it is on the disk then. The caller is the job's
// first listener, until ctx ends. Jobs of the same user without a listener are
// cancelled, unless they run on without one. It fails with CodeBusy when too many
// jobs wait, or with ReasonStopping, and with CodeInvalid for an address of a webhook
// that the service does not call.
//
// A request with the idempotency key of an earlier one joins its job, also one that
// has ended; CodeInvalid with ReasonKeyReused: that request was another one.
func (s *Service) Submit(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (string, error) {
	if err := s.checkWebhook(request.WebhookURL); err != nil {
		return "", err
	}
	if err := s.settled(ctx, ""); err != nil {
		return "", err
	}
	id, err := s.submit(ctx, request, lang)
	if err == nil {
		err = s.settled(ctx, id) // it may be that of an earlier request
	}
	return id, err
}

func (s *Service) submit(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (string, error) {
	n := describe(request, lang)
	n.Resume = s.parts.Resume
	s.submitting.Lock()
	defer s.submitting.Unlock()
	if id, err := s.join(ctx, n); id != "" || err != nil {
		return id, err // also while the service is stopping
	}
	if s.isClosed() {
		return "", &dreamcore.Error{Code: dreamcore.CodeBusy, Reason: ReasonStopping, Message: "the service is stopping", Hint: "try again in a moment"}
	}
	if s.parts.Admit != nil {
		if err := s.parts.Admit(request.User, request.Project); err != nil {
			return "", err
		}
	}
	slot, err := s.admission.enter(request.User)
	if err != nil {
		return "", err
	}
	row := newRow(dreamcore.NewJobID(request.User), n)
	log, err := s.create(row, n)
	if err != nil {
		slot.leave()
		return "", fmt.Errorf("begin job: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replace(request.User) // only now: a refused request replaces no job
	l := s.start(past{row: row, request: request}, log, slot)
	s.listen(ctx, l)
	return row.ID, nil
}

// checkWebhook checks the address that a request names, which may be "".
func (s *Service) checkWebhook(address string) error {
	switch {
	case address == "":
		return nil
	case s.parts.CheckWebhook == nil:
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid webhook_url: this service has no webhooks", Hint: "leave it out, or ask the operator to list its host in webhooks"}
	}
	return s.parts.CheckWebhook(address)
}

func (s *Service) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// has reports whether this process runs a job, has it in its queue, or has just made
// it.
func (s *Service) has(id string) bool {
	s.submitting.Lock()
	defer s.submitting.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[id] != nil
}

// create writes the row and the log of a new job. The row comes first, so that the
// index leads to every job that has not ended; a row without a log is dropped when
// the service starts.
func (s *Service) create(row record.Row, n jobNote) (_ *journal.Log, err error) {
	if err := s.put(row); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && s.parts.Records != nil {
			err = errors.Join(err, s.parts.Records.Remove(row.ID))
		}
	}()
	log, err := s.parts.Journal.Create(row.ID)
	if err != nil {
		return nil, err
	}
	log.SetOwner(row.User)
	if s.parts.Tell != nil {
		log.SetUntold()
	}
	if err := log.Note(note{Job: &n}.encode()); err != nil {
		return nil, errors.Join(err, log.Close(), s.parts.Journal.Remove(row.ID))
	}
	return log, nil
}

// start runs a job in the background. It must be called with mu held.
func (s *Service) start(p past, log *journal.Log, slot *slot) *liveJob {
	run, stop := context.WithCancelCause(s.run)
	settings := *s.settings.Load()
	l := &liveJob{
		id: p.row.ID, user: p.row.User, slot: slot, stop: stop, log: log, row: p.row, done: make(chan struct{}),
		grace: settings.DisconnectGrace, runOn: settings.RunOn || p.row.Detach,
	}
	j := &job{
		id: p.row.ID, request: p.request, lang: p.row.Language, journal: log, slot: slot, service: s, live: l, earlier: p.earlier,
		settings: settings, began: time.Now(), forwarded: p.earlier.lines, accepted: p.earlier.accepted,
		summary: dreamcore.Summary{Repairs: p.earlier.repairs, Acceptance: p.earlier.verdict()},
		log:     s.log.With("job", p.row.ID, "user", string(p.row.User), "project", string(p.row.Project)),
	}
	s.jobs[l.id] = l
	s.wg.Go(func() {
		if s.doJob(run, j) {
			s.warmUp(s.run, j.request.User, j.request.Project, false)
		}
	})
	return l
}

// doJob does a job and reports whether it has made a game.
func (s *Service) doJob(ctx context.Context, j *job) bool {
	defer s.forget(j.live)
	defer j.slot.leave()
	return j.work(ctx)
}

// Close refuses new jobs, but not the repetition of a request whose job there is, and
// waits for those that run. When ctx ends, it cuts them.
// If another process takes jobs up, those that wait in the queue are suspended at
// once, and those that are cut stay without an end; otherwise every job gets its
// last event.
func (s *Service) Close(ctx context.Context) {
	s.submitting.Lock() // a job that is half made is waited for, too
	s.mu.Lock()
	s.closed = true
	cut := errStopping
	if s.parts.Resume {
		cut = errSuspended
		s.suspendWaiting()
	}
	s.mu.Unlock()
	s.submitting.Unlock()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.cancel(cut)
		<-done
	}
	s.cancel(cut)
}
