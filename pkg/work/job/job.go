package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// cleanupLimit bounds each step of the end of a job.
const cleanupLimit = 30 * time.Second

// pruneLimit bounds the removal of old versions after a version was saved.
const pruneLimit = 2 * time.Minute

// job is one generation.
type job struct {
	id       string
	request  dreamcore.GenerateRequest
	lang     dreamcore.Language
	journal  *journal.Log
	slot     *slot
	service  *Service
	live     *liveJob
	earlier  earlier
	settings Settings
	began    time.Time
	log      *slog.Logger

	attempted bool      // the attempt is noted in the log
	ran       time.Time // when the agent was first started; zero before
	kept      bool      // the sandbox was there before the job
	asked     bool      // the agent has asked the model something
	firstWord time.Time // when the model's first words came; zero before

	output    eventReader // has seen the agent's lines of this attempt, also those that are not forwarded
	forwarded int         // lines of the agent in the journal, of all attempts
	muted     bool        // no more lines of the agent are forwarded
	summary   dreamcore.Summary
	account   *usage.Job // nil before the first run, and without a ledger: see meter

	warm *warmAgent // takes the next run; nil if the agent must be started for it

	accepted *dreamcore.Acceptance // the last check of the game in brief; nil if there was none
	verdict  string                // of the project as it is now; "" if that was not checked
	shots    []verdict.Shot        // of the last check
}

// site is where the agent works in one job, or waits for it.
type site struct {
	workspace *workspace.Workspace
	project   *volume.Project
	home      *volume.Home
	agent     agent.Config // the settings, as they apply to this job
	dir       string       // of the project, inside
	stopped   func() error // why the sandbox was stopped on request; nil if it was not
}

// guarded calls attempt. A panic in it fails this job, not the service.
func (j *job) guarded(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return j.attempt(ctx)
}

// attempt is the path of one game. The order matters: the lock comes before the
// sandbox that sees the project, the token after the sandbox that it is bound
// to, the version after every process has ended. Everything that was set up is
// undone in reverse order.
func (j *job) attempt(ctx context.Context) (err error) {
	if err := j.slot.wait(ctx, func(position int) { j.status(fmt.Sprintf("Waiting in the queue: place %d", position)) }); err != nil {
		return err
	}
	if err := j.beginAttempt(); err != nil {
		return &stageError{stage: stageReserve, err: err}
	}
	if f, ok := j.request.TestError.Failure(); ok {
		j.status("Simulating the requested failure: " + string(j.request.TestError))
		return &stageError{stage: stageRequested, requested: f, err: errors.New("requested by _test_error")}
	}
	if !j.earlier.hasGame() { // else it may have to be checked only
		if err := j.checkBudget(); err != nil {
			return err
		}
	}
	room, err := j.reserve(ctx)
	if err != nil && context.Cause(ctx) != nil {
		return err // it was cancelled while it waited for the disk
	}
	if err != nil {
		return &stageError{stage: stageReserve, err: err}
	}
	defer room.Close()
	j.status("Opening the project")
	unlock, err := j.service.parts.Volumes.Lock(ctx, j.request.User, j.request.Project)
	if err != nil {
		return fmt.Errorf("lock project: %w", err)
	}
	defer unlock()
	project, err := j.service.parts.Volumes.Project(j.request.User, j.request.Project)
	if err != nil {
		return fmt.Errorf("open project: %w", err)
	}
	defer project.Close()
	defer func() { err = j.save(ctx, project, room, err) }() // also after a panic
	if j.exhausted() {
		return j.leaveGame()
	}
	defer j.showSkills(project)()
	err = j.inSandbox(ctx, project)
	if j.sandboxFailed(ctx, err) {
		j.log.Warn("the sandbox that was there before the job has failed; the job gets another one", "error", err)
		j.status("The sandbox failed; another one is started")
		err = j.inSandbox(ctx, project)
	}
	return err
}

// sandboxFailed reports whether err is the fault of a sandbox that was there before
// the job, which may end at any time, and the agent has not asked the model yet.
func (j *job) sandboxFailed(ctx context.Context, err error) bool {
	if err == nil || !j.kept || j.asked || ctx.Err() != nil || isStop(err) || errors.Is(err, sandbox.ErrOutOfMemory) {
		return false
	}
	e, ok := errors.AsType[*stageError](err)
	return ok && e.stage == stageSandbox || errors.Is(err, sandbox.ErrLost)
}

// inSandbox runs the agent on the project. When it returns, no process of the
// job runs any more.
func (j *job) inSandbox(ctx context.Context, project *volume.Project) (err error) {
	home, err := j.service.parts.Volumes.Home(j.request.User, j.request.Project)
	if err != nil {
		return fmt.Errorf("open the agent's home: %w", err)
	}
	defer home.Close()
	j.status("Starting a sandbox")
	lease, err := j.service.parts.Workspaces.Lease(ctx, j.request.User)
	if err != nil {
		if context.Cause(ctx) != nil {
			return err
		}
		return &stageError{stage: stageSandbox, err: err}
	}
	defer lease.Release(context.WithoutCancel(ctx))
	w := lease.Workspace()
	w.Begin(j.id)
	j.kept = lease.Reused() || w.Ahead()
	if j.summary.SandboxReused = lease.Reused(); j.summary.SandboxReused {
		j.status("The sandbox was ready")
	}
	closeEgress := w.OpenEgress(j.id)
	defer closeEgress()
	s := j.service.site(w, j.request.User, j.request.Project, j.settings)
	s.project, s.home = project, home
	if s.agent.Turns > 0 {
		s.agent.Turns = max(s.agent.Turns-j.earlier.turns, 1) // all attempts count
	}
	s.stopped = func() error {
		if why := context.Cause(lease.Context()); isStop(why) {
			return why
		}
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	space, err := j.watchSpace(ctx, project, cancel)
	if err != nil && context.Cause(ctx) != nil {
		return err
	}
	if err != nil {
		return &stageError{stage: stageSandbox, err: err}
	}
	// Deferred, so that the user gets reserved space back after a panic, too.
	defer func() { err = j.explain(err, context.Cause(ctx), space.end(ctx)) }()
	defer context.AfterFunc(ctx, closeEgress)() // a cancelled job reaches no host any more
	if names := j.service.skills(); len(names) > 0 {
		j.status("Skills loaded: " + strings.Join(names, ", "))
	}
	j.status("Starting the agent")
	// Stopping the sandbox cancels the job. A sandbox that is lost does not: the
	// agent's run reports that itself, with the reason.
	defer context.AfterFunc(lease.Context(), func() {
		if why := s.stopped(); why != nil {
			cancel(why)
		}
	})()
	err = j.run(ctx, s)
	if why := s.stopped(); errors.Is(err, sandbox.ErrLost) && why != nil {
		err = fmt.Errorf("%w: %w", why, err) // the sandbox was gone before the run noticed the stop
	}
	return err
}

// isStop reports whether a workspace was closed on request.
func isStop(err error) bool {
	return errors.Is(err, workspace.ErrStopped) || errors.Is(err, workspace.ErrClosed)
}

// forward appends a line of the agent to the journal, up to the limit.
func (j *job) forward(e dreamcore.Event) error {
	if j.firstWord.IsZero() && dreamcore.EventType(e) == "assistant" {
		j.firstWord = time.Now()
	}
	j.output.read(e)
	switch {
	case j.muted:
		return nil
	case j.forwarded >= j.settings.OutputLines:
		return j.mute(fmt.Sprintf("Output beyond %d lines is not shown; the run goes on", j.settings.OutputLines))
	}
	j.forwarded++
	_, err := j.journal.Append(e)
	if dreamcore.CodeOf(err) == dreamcore.CodeTooLarge {
		return j.mute("The output is too long for its log; the rest is not shown, the run goes on")
	}
	return err
}

// mute ends the forwarding with one warning.
func (j *job) mute(warning string) error {
	j.muted = true
	_, err := j.journal.Append(dreamcore.WarningEvent(warning))
	if dreamcore.CodeOf(err) == dreamcore.CodeTooLarge {
		j.log.Warn(warning) // the journal has no room for it
		return nil
	}
	return err
}

func (j *job) status(message string) { j.emit(dreamcore.StatusEvent(message)) }

// emit appends an event of the service to the journal. An error is logged and
// the job goes on: the project is worth more than its log.
func (j *job) emit(e dreamcore.Event) {
	if _, err := j.journal.Append(e); err != nil {
		j.log.Error("write an event", "error", err)
	}
}
