package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Job is what one run of the CLI needs.
type Job struct {
	Sandbox sandbox.Sandbox
	Dir     string // the project inside
	Prompt  string // what the user asked for
	Token   string // the credential for the gateway
	Session Session
	Limit   time.Duration               // of wall time
	Emit    func(dreamcore.Event) error // gets every line; must not wait for readers
}

// Outcome tells how a run went.
type Outcome struct {
	ExitCode int // 0 only for a success, 124 after the time limit
	TimedOut bool
	Result   *Result // nil when the CLI did not give one
	Lines    int     // lines of output
	Talked   bool    // the model has answered at least once: the session exists
	Stderr   string  // the end of standard error, for the log

	OutOfMemory bool // the whole sandbox was ended for its memory
}

// Crashed reports whether a signal that a program does not get by itself ended
// the CLI: it broke, or the kernel killed it.
func (o Outcome) Crashed() bool {
	if o.TimedOut || o.OutOfMemory {
		return false
	}
	switch syscall.Signal(o.ExitCode - 128) {
	case syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV, syscall.SIGKILL:
		return true
	}
	return false
}

// Success follows the CLI's own rules: it needs a result, that says it is no
// error, and exit code 0. Each of them alone has been seen to lie.
func (o Outcome) Success() bool {
	return o.ExitCode == 0 && o.Result != nil && !o.Result.IsError
}

// exitNoResult is reported for a CLI that exits with 0 but without success.
const exitNoResult = 1

const (
	// termGrace is how long a CLI has after SIGTERM, to write its session down.
	termGrace = 2 * time.Second
	// killLimit is how long a killed CLI may take to be gone.
	killLimit = 10 * time.Second
	// endLimit bounds the end of what a run has left behind.
	endLimit = 15 * time.Second
	// resultGrace is how long a CLI may take to exit, or to begin another turn,
	// after it has printed its result. It waits for background tasks, which may
	// be servers that never end.
	resultGrace = 3 * time.Second
)

// Run runs the CLI to its end and ends every process it leaves behind. A CLI
// that has printed its result and does not exit is stopped, and judged by the
// result. When ctx ends, the CLI is stopped and the exit code is 143. An error
// means that the outcome is not known: the CLI could not be started, the
// sandbox was lost (sandbox.ErrLost), or Emit failed. A sandbox that does not
// end the CLI in time is closed.
func (c Config) Run(ctx context.Context, r Job) (Outcome, error) {
	out := newOutput(r.Emit)
	stderr := &tail{}
	cmd := c.Command(r.Dir, r.Token, r.Session)
	cmd.Env = append(cmd.Env, shellLimits(r.Limit)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(Prompt(r.Prompt)), out, stderr

	limited, cancel := context.WithTimeoutCause(ctx, r.Limit, errTimeLimit)
	defer cancel()
	exit, why, err := execute(limited, r.Sandbox, cmd, out.turns)
	// The agent's shell commands have groups of their own and outlive it.
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	if eerr := r.Sandbox.EndAll(cleanup); err == nil && eerr != nil {
		err = fmt.Errorf("end what the agent left: %w", eerr)
	}
	if ferr := out.flush(); err == nil {
		err = ferr
	}
	o := Outcome{ExitCode: exit.Code, Result: out.result, Lines: out.lines, Talked: out.talked, Stderr: stderr.String()}
	switch {
	case errors.Is(why, errLingers) && err == nil:
		// The exit code tells of our signal only.
		o.ExitCode = 0
		if !o.Success() {
			o.ExitCode = exitNoResult
		}
	// What stopped the run is why it ended, whatever broke on the way out.
	case errors.Is(why, errTimeLimit):
		o.ExitCode, o.TimedOut = dreamcore.ExitTimeout, true
	case why != nil && !errors.Is(why, errLingers):
		o.ExitCode = dreamcore.ExitTerminated
	case errors.Is(err, sandbox.ErrOutOfMemory):
		o.ExitCode, o.OutOfMemory = dreamcore.ExitKilled, true
	case err != nil:
		return o, fmt.Errorf("run the agent: %w", err)
	case o.ExitCode == 0 && !o.Success():
		o.ExitCode = exitNoResult
	}
	return o, nil
}

// Why a run was stopped.
var (
	errTimeLimit = errors.New("the time limit is reached")
	errLingers   = errors.New("the CLI has given its result and does not exit")
)

// execute runs cmd until it ends, or stops it when ctx ends or when the CLI
// lingers after its result; why is then the cause. turns reports whether the
// CLI works on a turn.
func execute(ctx context.Context, sb sandbox.Sandbox, cmd sandbox.Command, turns <-chan bool) (exit sandbox.Exit, why, err error) {
	// The process outlives ctx for as long as it takes to stop it gently; only
	// its start does not.
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	disarm := context.AfterFunc(ctx, kill)
	p, err := sb.Start(life, cmd)
	disarm()
	if err != nil {
		return exit, context.Cause(ctx), fmt.Errorf("start: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		exit, err = p.Wait()
	}()
	if why = running(ctx, done, turns); why == nil {
		return exit, nil, err
	}
	_ = p.Signal(syscall.SIGTERM)
	if !closedWithin(done, termGrace) {
		kill()
	}
	if !closedWithin(done, killLimit) {
		// PID 1 does not answer any more. Whoever gave us the sandbox closes it
		// too, and hears how that went.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
		defer cancel()
		_ = sb.Close(cleanup)
		<-done
	}
	return exit, why, err
}

// running waits for the end of a run and returns nil, or why it has to be
// stopped.
func running(ctx context.Context, done <-chan struct{}, turns <-chan bool) error {
	linger, lingers := time.NewTimer(resultGrace), false
	linger.Stop()
	defer linger.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			why := context.Cause(ctx)
			select {
			case works := <-turns:
				lingers = !works
			default:
			}
			if lingers && errors.Is(why, errTimeLimit) {
				return errLingers // it had its result in time
			}
			return why
		case <-linger.C:
			return errLingers
		case works := <-turns:
			linger.Stop()
			if lingers = !works; lingers {
				linger.Reset(resultGrace)
			}
		}
	}
}

// shellLimits bound a shell command of the agent, so that a server in the
// foreground leaves the agent time to go on: by default to a third of the run,
// and to half of it where the agent asks for more.
func shellLimits(run time.Duration) []string {
	const most = 2 * time.Minute // the CLI's own default
	return []string{
		fmt.Sprintf("BASH_DEFAULT_TIMEOUT_MS=%d", min(run/3, most).Milliseconds()),
		fmt.Sprintf("BASH_MAX_TIMEOUT_MS=%d", (run / 2).Milliseconds()),
	}
}

func closedWithin(done <-chan struct{}, d time.Duration) bool {
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}
