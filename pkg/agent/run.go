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
	Wish    string // what the user asked for
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
)

// Run runs the CLI to its end and ends every process it leaves behind. When
// ctx ends, the CLI is stopped and the exit code is 143. An error means that
// the outcome is not known: the CLI could not be started, the sandbox was lost
// (sandbox.ErrLost), or Emit failed. A sandbox that does not end the CLI in
// time is closed.
func (c Config) Run(ctx context.Context, r Job) (Outcome, error) {
	out := &output{emit: r.Emit}
	stderr := &tail{}
	cmd := c.Command(r.Dir, r.Token, r.Session)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(Prompt(r.Wish)), out, stderr

	limited, cancel := context.WithTimeoutCause(ctx, r.Limit, errTimeLimit)
	defer cancel()
	exit, why, err := execute(limited, r.Sandbox, cmd)
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
	// What stopped the run is why it ended, whatever broke on the way out.
	case errors.Is(why, errTimeLimit):
		o.ExitCode, o.TimedOut = dreamcore.ExitTimeout, true
	case why != nil:
		o.ExitCode = dreamcore.ExitTerminated
	case errors.Is(err, sandbox.ErrOutOfMemory):
		o.ExitCode = dreamcore.ExitKilled
	case err != nil:
		return o, fmt.Errorf("run the agent: %w", err)
	case o.ExitCode == 0 && !o.Success():
		o.ExitCode = exitNoResult
	}
	return o, nil
}

var errTimeLimit = errors.New("the time limit is reached")

// execute runs cmd until it ends, or stops it when ctx ends; why is then the
// cause.
func execute(ctx context.Context, sb sandbox.Sandbox, cmd sandbox.Command) (exit sandbox.Exit, why, err error) {
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
	select {
	case <-done:
		return exit, nil, err
	case <-ctx.Done():
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
	return exit, context.Cause(ctx), err
}

func closedWithin(done <-chan struct{}, d time.Duration) bool {
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}
