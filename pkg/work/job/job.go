package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Where things are inside a sandbox; the root file system has these places.
const (
	projectsDir = "/data/users/%s/projects"
	globalDir   = dreamcore.GlobalDir
)

// cleanupLimit bounds each step of a job's end.
const cleanupLimit = 30 * time.Second

// pruneLimit bounds the removal of old versions after a version was saved.
const pruneLimit = 2 * time.Minute

// job is one generation.
type job struct {
	id       string
	request  dreamcore.GenerateRequest
	lang     dreamcore.Language
	journal  *journal.Log
	ticket   *ticket
	service  *Service
	settings Settings
	began    time.Time
	log      *slog.Logger

	forwarded int  // lines of the agent in the journal
	muted     bool // no more of them are put there
	summary   dreamcore.Summary
	account   gateway.Meter // nil before the first run, and without books: see meter
}

// failed is an error with the failure that the client is told.
type failed struct {
	failure dreamcore.Failure
	err     error
}

func (f *failed) Error() string { return f.err.Error() }
func (f *failed) Unwrap() error { return f.err }

// work does the job and writes its one terminal event, whatever happens. The
// ticket is given back before it: a client that asks for more as soon as it
// has read the last event must not be told that it is still busy.
func (j *job) work(ctx context.Context) {
	defer func() {
		if err := j.journal.Close(); err != nil {
			j.log.Error("close the journal", "error", err)
		}
	}()
	err := j.guarded(ctx)
	j.summary.Elapsed = time.Since(j.began)
	last := dreamcore.DoneEvent()
	if err != nil {
		f := failureOf(ctx, err)
		last = dreamcore.ErrorEvent(f, j.lang)
		switch {
		case f.HasExit:
			j.summary.ExitCode = f.ExitCode
		case j.summary.ExitCode == 0:
			j.summary.ExitCode = 1 // 0 would tell of a success
		}
		level := slog.LevelError
		if f.Spent {
			level = slog.LevelWarn // as the operator wanted it
		}
		if context.Cause(ctx) != nil {
			level = slog.LevelInfo // somebody wanted it to end
		}
		j.log.Log(ctx, level, "generation failed", "code", f.Code, "error", err, "elapsed", j.summary.Elapsed)
	} else {
		j.log.Info("generation done", "elapsed", j.summary.Elapsed, "lines", j.summary.OutputLines, "commit", j.summary.GitCommit)
	}
	if j.request.TestError == dreamcore.TestErrorNone {
		j.tell(dreamcore.DebugEvent(j.summary))
	}
	j.ticket.leave()
	j.tell(last)
}

// guarded is attempt; a panic in it is one failed job, not the end of all.
func (j *job) guarded(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return j.attempt(ctx)
}

// failureOf is what the client is told of err.
func failureOf(ctx context.Context, err error) dreamcore.Failure {
	if f, ok := errors.AsType[*failed](err); ok {
		return f.failure
	}
	switch {
	case context.Cause(ctx) != nil:
		return dreamcore.ExitFailure(dreamcore.ExitTerminated)
	case errors.Is(err, sandbox.ErrOutOfMemory):
		return dreamcore.ExitFailure(dreamcore.ExitKilled)
	case errors.Is(err, sandbox.ErrLost):
		return dreamcore.Failure{Code: dreamcore.FailSandboxLost}
	}
	return failureOr(err, dreamcore.FailUnknown)
}

// attempt is the path of one game, in the order that matters: the lock before
// the sandbox that sees the project, the token after the sandbox that is bound
// to it, the version after every process has ended. What was made is undone in
// reverse.
func (j *job) attempt(ctx context.Context) (err error) {
	if err := j.ticket.wait(ctx, func(place int) { j.status(fmt.Sprintf("Waiting in the queue: place %d", place)) }); err != nil {
		return err
	}
	if f, ok := j.request.TestError.Failure(); ok {
		j.status("Playing the failure that was asked for: " + string(j.request.TestError))
		return &failed{failure: f, err: errors.New("asked for by _test_error")}
	}
	if err := j.checkBudget(); err != nil {
		return err
	}
	room, err := j.reserve(ctx)
	if err != nil && context.Cause(ctx) != nil {
		return err // it waited for the disk when it was cancelled
	}
	if err != nil {
		return &failed{failure: failureOr(err, dreamcore.FailDisk), err: err}
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
	defer j.showSkills(project)()
	return j.inSandbox(ctx, project)
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
	lease, err := j.service.pool.Lease(ctx, j.request.User)
	if err != nil {
		if context.Cause(ctx) != nil {
			return err
		}
		return &failed{failure: failureOr(err, dreamcore.FailSandbox), err: err}
	}
	defer lease.Release(context.WithoutCancel(ctx))
	d := lease.Member()
	d.began(j.id)
	if j.summary.SandboxReused = lease.Reused(); j.summary.SandboxReused {
		j.status("The sandbox was ready")
	}
	if names := j.skills(); len(names) > 0 {
		j.settings.Agent.Skills = path.Join(globalDir, skillsDir)
		j.status("Skills loaded: " + strings.Join(names, ", "))
	}
	env, shut := d.letOut(j.id)
	defer shut()
	j.settings.Agent.Env = slices.Concat(j.settings.Agent.Env, env)
	if d.egress == nil {
		j.settings.Agent.Hosts = nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	space, err := j.watchSpace(ctx, project, cancel)
	if err != nil && context.Cause(ctx) != nil {
		return err
	}
	if err != nil {
		return &failed{failure: failureOr(err, dreamcore.FailSandbox), err: err}
	}
	// In a panic, too: what is set aside is the user's.
	defer func() {
		err = ofSpace(err, context.Cause(ctx), space.end(ctx), j.service.parts.Volumes.CheckFree)
	}()
	defer context.AfterFunc(ctx, shut)() // a cancelled job reaches nothing more
	j.status("Starting the agent")
	// Somebody who stops the sandbox stops the job. One that is lost says so
	// itself, and better: by what was lost.
	defer context.AfterFunc(lease.Context(), func() {
		if why := context.Cause(lease.Context()); errors.Is(why, workspace.ErrStopped) || errors.Is(why, workspace.ErrClosed) {
			cancel(why)
		}
	})()
	return j.runAgent(ctx, d, project, home)
}

// forward puts a line of the agent into the journal, up to the limit.
func (j *job) forward(e dreamcore.Event) error {
	switch {
	case j.muted:
		return nil
	case j.forwarded == j.settings.OutputLines:
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
		j.log.Warn(warning) // there is no room even for it
		return nil
	}
	return err
}

func (j *job) status(message string) { j.tell(dreamcore.StatusEvent(message)) }

// tell puts an event of ours into the journal. A journal that fails is logged;
// the work goes on, because the project is worth more than its log.
func (j *job) tell(e dreamcore.Event) {
	if _, err := j.journal.Append(e); err != nil {
		j.log.Error("write an event", "error", err)
	}
}
