package agent

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Turn is the prompt of a run and what belongs to it.
type Turn struct {
	Prompt string                      // what the user asked for
	Limit  time.Duration               // of wall time
	Emit   func(dreamcore.Event) error // is called for every line; must not wait for readers
}

// Outcome is the result of a run.
type Outcome struct {
	ExitCode int // 0 only after a success, 124 after the time limit
	TimedOut bool
	Result   *Result // nil if the CLI did not print one
	Lines    int     // lines of output
	Talked   bool    // the model has answered at least once, so the session exists
	Stderr   string  // the end of standard error, for the log

	OutOfMemory bool // the sandbox was killed because it was out of memory
}

// Crashed reports whether the CLI ended with the signal of a crash, or was killed
// by the kernel.
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

// Success reports whether the run succeeded by the CLI's own rules: there is a
// result, it is not an error, and the exit code is 0. Each of these alone has been
// wrong in practice.
func (o Outcome) Success() bool {
	return o.ExitCode == 0 && o.Result != nil && !o.Result.IsError
}

// exitNoResult is the exit code of a CLI that exits with 0 but without success.
const exitNoResult = 1

const (
	// termGrace is how long a CLI has after SIGTERM to save its session.
	termGrace = 2 * time.Second
	// killLimit is how long a killed CLI may take to end.
	killLimit = 10 * time.Second
	// endLimit bounds the end of the processes that a run leaves behind.
	endLimit = 15 * time.Second
	// resultGrace is how long a CLI may take to exit, or to begin another turn,
	// after it has printed its result. The CLI waits for background tasks, which
	// may be servers that never end.
	resultGrace = 3 * time.Second
)

// Run starts the CLI and runs it as Started.Run does. The time limit includes the
// start.
func (c Config) Run(ctx context.Context, start Start, turn Turn) (Outcome, error) {
	limited, cancel := context.WithTimeoutCause(ctx, turn.Limit, errTimeLimit)
	defer cancel()
	return c.launch(limited, start).run(limited, turn)
}

// Run gives the CLI its prompt, runs it to its end and ends every process that it
// leaves behind. A CLI that has printed its result and does not exit is stopped;
// then the result alone decides. When ctx ends, the CLI is stopped and the exit code
// is 143. An error means that the outcome is unknown: the CLI could not be started,
// the sandbox was lost (sandbox.ErrLost), or Emit failed. If the CLI cannot be killed
// in time, Run closes the sandbox.
func (s *Started) Run(ctx context.Context, turn Turn) (Outcome, error) {
	limited, cancel := context.WithTimeoutCause(ctx, turn.Limit, errTimeLimit)
	defer cancel()
	return s.run(limited, turn)
}

// run is Run with a context that ends at the time limit.
func (s *Started) run(ctx context.Context, turn Turn) (Outcome, error) {
	err := s.output.attach(turn.Emit)
	var why error
	if err != nil {
		s.kill()
		<-s.done
	} else {
		why = s.work(ctx, message(turn.Prompt))
		err = s.err
	}
	// The agent's shell commands have their own process groups and outlive it.
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	// Programs of other users, such as a browser that was started ahead, live on.
	if eerr := s.sandbox.EndUser(cleanup, s.uid); err == nil && eerr != nil {
		err = fmt.Errorf("end the processes of the agent: %w", eerr)
	}
	if ferr := s.output.flush(); err == nil {
		err = ferr
	}
	return s.outcome(why, err)
}

// outcome returns the result of a run that was stopped because of why, nil if it was
// not, and that failed with err.
func (s *Started) outcome(why, err error) (Outcome, error) {
	out := s.output
	o := Outcome{ExitCode: s.exit.Code, Result: out.result, Lines: out.lines, Talked: out.talked, Stderr: s.stderr.String()}
	switch {
	case errors.Is(why, errLingers) && err == nil:
		// The exit code is that of our signal.
		o.ExitCode = 0
		if !o.Success() {
			o.ExitCode = exitNoResult
		}
	// If the run was stopped, that is its outcome, even if an error followed.
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

// Reasons to stop a run.
var (
	errTimeLimit = errors.New("the time limit is reached")
	errLingers   = errors.New("the CLI has printed its result and does not exit")
)

// work gives the CLI its message and waits for its end. It stops the CLI when ctx
// ends, or when it lingers after its result; why is then the reason, else nil.
func (s *Started) work(ctx context.Context, message string) (why error) {
	if s.process == nil {
		return context.Cause(ctx)
	}
	s.input.add(message, true)
	if why = running(ctx, s.done, s.output.turns); why == nil {
		return nil
	}
	_ = s.process.Signal(syscall.SIGTERM)
	if !closedWithin(s.done, termGrace) {
		s.kill()
	}
	if !closedWithin(s.done, killLimit) {
		// PID 1 does not answer any more. The error of Close is dropped here: the
		// owner of the sandbox closes it again, and gets the error.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
		defer cancel()
		_ = s.sandbox.Close(cleanup)
		<-s.done
	}
	return why
}

// running waits for the end of a run and returns nil, or the reason to stop it.
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
				return errLingers // it has printed its result in time
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

// shellLimits returns the variables that limit the time of a shell command of the
// agent, so that a server in the foreground leaves time for the rest of the run:
// a third of the run by default, and half of it if the agent requests more.
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
