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

// termGrace is how long a CLI has after SIGTERM, to write its session down.
const termGrace = 2 * time.Second

// endLimit bounds the end of what a run has left behind.
const endLimit = 15 * time.Second

// Run runs the CLI to its end and ends every process it leaves behind. An
// error means that the outcome is not known: the sandbox was lost or Emit
// failed. When ctx ends, the CLI is stopped and the exit code is 143.
func (c Config) Run(ctx context.Context, r Job) (Outcome, error) {
	out := &output{emit: r.Emit}
	stderr := &tail{}
	cmd := c.Command(r.Dir, r.Token, r.Session)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(Prompt(r.Wish)), out, stderr

	// The process outlives ctx for as long as it takes to stop it gently.
	life, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	p, err := r.Sandbox.Start(life, cmd)
	if err != nil {
		return Outcome{}, fmt.Errorf("start the agent: %w", err)
	}
	exit, why, err := c.await(ctx, p, r.Limit, kill)
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	// The agent's shell commands have groups of their own and outlive it.
	endErr := r.Sandbox.EndAll(cleanup)
	if err == nil {
		err = endErr
	}
	if ferr := out.flush(); err == nil {
		err = ferr
	}
	o := Outcome{ExitCode: exit.Code, Result: out.result, Lines: out.lines, Talked: out.talked, Stderr: stderr.String()}
	if err != nil {
		if errors.Is(err, sandbox.ErrOutOfMemory) {
			o.ExitCode = dreamcore.ExitKilled
			return o, nil
		}
		return o, fmt.Errorf("run the agent: %w", err)
	}
	switch {
	case errors.Is(why, errTimeLimit):
		o.ExitCode, o.TimedOut = dreamcore.ExitTimeout, true
	case why != nil:
		o.ExitCode = dreamcore.ExitTerminated
	case o.ExitCode == 0 && !o.Success():
		o.ExitCode = exitNoResult
	}
	return o, nil
}

var errTimeLimit = errors.New("the time limit is reached")

// await waits for the end of p and stops it when ctx ends or the limit is
// reached; why then says which of the two.
func (c Config) await(ctx context.Context, p sandbox.Process, limit time.Duration, kill func()) (exit sandbox.Exit, why, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTimeLimit)
	defer cancel()
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
	why = context.Cause(ctx)
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(termGrace):
		kill()
		<-done
	}
	return exit, why, err
}
