package job

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// stage is the part of a job in which an error occurred.
type stage int

const (
	stageRequested stage = iota + 1 // the request asked for a failure
	stageBudget                     // the job may not spend anything
	stageReserve                    // space on the disk
	stageSandbox                    // lease of the workspace, bounds of the project
	stageAgent                      // the agent ran to its end without success
	stageFull                       // the job was stopped because the project is full
	stageDisk                       // the user's disk has failed
	stageSave                       // the version
	stageEmpty                      // the agent succeeded and the project has no file
	stageBroken                     // the game does not play
)

// stageError is an error of one stage of a job. classify maps it to the failure
// that the client sees. An error without a stage is classified by its cause.
type stageError struct {
	stage stage
	err   error

	requested dreamcore.Failure // of stageRequested
	agent     agentFailure      // of stageAgent
}

func (e *stageError) Error() string { return e.err.Error() }
func (e *stageError) Unwrap() error { return e.err }

// agentFailure holds the facts about a run that did not succeed.
type agentFailure struct {
	run       run
	cancelled bool  // the job was cancelled while the agent ran
	full      bool  // the project had reached its bounds
	disk      error // why the disk of the machine takes no more; nil if it does
}

// classify returns the failure that the client sees for err, the error of a job
// that has ended. Only this function decides it.
func classify(ctx context.Context, err error) dreamcore.Failure {
	e, ok := errors.AsType[*stageError](err)
	if !ok {
		switch {
		case context.Cause(ctx) != nil, isStop(err):
			return dreamcore.ExitFailure(dreamcore.ExitTerminated)
		case errors.Is(err, sandbox.ErrOutOfMemory):
			return dreamcore.ExitFailure(dreamcore.ExitKilled)
		case errors.Is(err, sandbox.ErrLost):
			return dreamcore.Failure{Code: dreamcore.FailSandboxLost}
		}
		return ofSpace(err, dreamcore.FailUnknown)
	}
	switch e.stage {
	case stageRequested:
		return e.requested
	case stageBudget:
		return dreamcore.Failure{Code: dreamcore.FailRateLimit, Spent: true}
	case stageReserve:
		return ofSpace(err, dreamcore.FailDisk)
	case stageSandbox:
		return ofSpace(err, dreamcore.FailSandbox)
	case stageAgent:
		return e.agent.classify()
	case stageFull:
		return dreamcore.Failure{Code: dreamcore.FailQuota}
	case stageDisk:
		return dreamcore.Failure{Code: dreamcore.FailDisk}
	case stageEmpty:
		return dreamcore.Failure{Code: dreamcore.FailNoGame}
	case stageBroken:
		return dreamcore.Failure{Code: dreamcore.FailGameBroken}
	}
	return ofSpace(err, dreamcore.FailUnknown)
}

// ofSpace returns the failure for an error that may be due to lack of space, the
// user's or the machine's, or to a disk that cannot be written to; else otherwise.
func ofSpace(err error, otherwise dreamcore.FailureCode) dreamcore.Failure {
	switch {
	case dreamcore.CodeOf(err) == dreamcore.CodeTooLarge:
		return dreamcore.Failure{Code: dreamcore.FailQuota}
	case statefile.IsFull(err), disk.IsFailure(err):
		return dreamcore.Failure{Code: dreamcore.FailDisk}
	}
	return dreamcore.Failure{Code: otherwise}
}

func (a agentFailure) classify() dreamcore.Failure {
	if a.cancelled {
		return dreamcore.ExitFailure(dreamcore.ExitTerminated)
	}
	f := a.run.verdict()
	if !unspecific(f.Code) {
		return f
	}
	// The agent may fail in any way because a disk is full.
	if a.full {
		return dreamcore.Failure{Code: dreamcore.FailQuota}
	}
	if a.disk != nil {
		return ofSpace(a.disk, dreamcore.FailDisk)
	}
	return f
}

// unspecific reports whether a code says only that the agent has failed.
func unspecific(code dreamcore.FailureCode) bool {
	return code == dreamcore.FailCLIGeneral || code == dreamcore.FailCLIUnknown
}

// verdict prefers what the gateway saw of the model API over the CLI's exit
// code, which is 1 for everything.
func (r run) verdict() dreamcore.Failure {
	f := dreamcore.ExitFailure(r.outcome.ExitCode)
	if r.outcome.ExitCode == 1 && r.seen != "" {
		f = dreamcore.Failure{Code: r.seen}
	}
	f.Spent = f.Code == dreamcore.FailRateLimit && r.overBudget
	f.Refused = f.Code == dreamcore.FailCLIGeneral && r.refused
	return f
}

// agentError returns the error of a run that did not succeed, the last one of
// its job.
func agentError(ctx context.Context, r run) error {
	return &stageError{
		stage: stageAgent, agent: agentFailure{run: r, cancelled: ctx.Err() != nil},
		err: fmt.Errorf("the agent ended with exit code %d%s", r.outcome.ExitCode, details(r.outcome)),
	}
}

// details returns what the agent said about its end, for the log.
func details(o agent.Outcome) string {
	s := ""
	if o.Result != nil && o.Result.IsError {
		s += fmt.Sprintf(", result %s: %.500s", o.Result.Subtype, o.Result.Text)
	}
	if o.Stderr != "" {
		s += ", standard error: " + o.Stderr
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
