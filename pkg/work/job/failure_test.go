package job

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		exit int
		seen dreamcore.FailureCode
		want dreamcore.Failure
	}{
		{1, "", dreamcore.Failure{Code: dreamcore.FailCLIGeneral, ExitCode: 1, HasExit: true}},
		{1, dreamcore.FailRateLimit, dreamcore.Failure{Code: dreamcore.FailRateLimit}},
		{1, dreamcore.FailAuth, dreamcore.Failure{Code: dreamcore.FailAuth}},
		{1, dreamcore.FailAPITimeout, dreamcore.Failure{Code: dreamcore.FailAPITimeout}},
		{1, dreamcore.FailNetwork, dreamcore.Failure{Code: dreamcore.FailNetwork}},
		// A signal or the time limit says more than an earlier failure of the model.
		{124, dreamcore.FailRateLimit, dreamcore.Failure{Code: dreamcore.FailCLITimeout, ExitCode: 124, HasExit: true}},
		{137, dreamcore.FailNetwork, dreamcore.Failure{Code: dreamcore.FailCLIKilled, ExitCode: 137, HasExit: true}},
		{143, dreamcore.FailNetwork, dreamcore.Failure{Code: dreamcore.FailCLITerminated, ExitCode: 143, HasExit: true}},
		{7, "", dreamcore.Failure{Code: dreamcore.FailCLIUnknown, ExitCode: 7, HasExit: true}},
	} {
		if got := (run{outcome: agent.Outcome{ExitCode: tt.exit}, seen: tt.seen}).verdict(); got != tt.want {
			t.Errorf("exit code %d, seen %q: %+v, want %+v", tt.exit, tt.seen, got, tt.want)
		}
	}
}

func TestClassify(t *testing.T) {
	lost := fmt.Errorf("run: %w", sandbox.ErrLost)
	tooLarge := &dreamcore.Error{Code: dreamcore.CodeTooLarge}
	noSpace := fmt.Errorf("write: %w", syscall.ENOSPC)
	code := func(c dreamcore.FailureCode) dreamcore.Failure { return dreamcore.Failure{Code: c} }
	in := func(s stage, err error) error { return fmt.Errorf("x: %w", &stageError{stage: s, err: err}) }
	ended := func(exit int, a agentFailure) error {
		a.run.outcome.ExitCode = exit
		return &stageError{stage: stageAgent, agent: a, err: errors.New("x")}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context // nil if the job was not cancelled
		err  error
		want dreamcore.Failure
	}{
		{"a lost sandbox", nil, lost, code(dreamcore.FailSandboxLost)},
		{"out of memory", nil, fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, lost), dreamcore.ExitFailure(137)},
		{"any other error", nil, errors.New("x"), code(dreamcore.FailUnknown)},
		{"no space", nil, noSpace, code(dreamcore.FailDisk)},
		{"a stopped sandbox", nil, fmt.Errorf("%w: %w", workspace.ErrStopped, lost), dreamcore.ExitFailure(143)},
		{"cancelled", cancelled, lost, dreamcore.ExitFailure(143)},
		{"requested", cancelled, &stageError{stage: stageRequested, requested: code(dreamcore.FailNetwork), err: lost}, code(dreamcore.FailNetwork)},
		{"over budget", nil, in(stageBudget, errors.New("x")), dreamcore.Failure{Code: dreamcore.FailRateLimit, Spent: true}},
		{"no room on the machine", nil, in(stageReserve, errors.New("x")), code(dreamcore.FailDisk)},
		{"no room for the user", nil, in(stageReserve, tooLarge), code(dreamcore.FailQuota)},
		{"no sandbox", cancelled, in(stageSandbox, errors.New("x")), code(dreamcore.FailSandbox)},
		{"no sandbox for want of space", nil, in(stageSandbox, noSpace), code(dreamcore.FailDisk)},
		{"no sandbox because the user's disk is full", nil, in(stageSandbox, tooLarge), code(dreamcore.FailQuota)},
		{"the project is full", cancelled, in(stageFull, lost), code(dreamcore.FailQuota)},
		{"the disk has failed", nil, in(stageDisk, disk.ErrFailed), code(dreamcore.FailDisk)},
		{"the disk has failed after the agent did", nil, in(stageDisk, errors.Join(disk.ErrFailed, ended(1, agentFailure{}))), code(dreamcore.FailDisk)},
		{"no version", nil, in(stageSave, errors.New("x")), code(dreamcore.FailUnknown)},
		{"no version for want of space", nil, in(stageSave, noSpace), code(dreamcore.FailDisk)},
		{"no game", nil, in(stageEmpty, errors.New("x")), code(dreamcore.FailNoGame)},
		{"the agent fails", nil, ended(1, agentFailure{}), dreamcore.ExitFailure(1)},
		{"the agent fails in a full project", nil, ended(1, agentFailure{full: true}), code(dreamcore.FailQuota)},
		{"the agent fails on a full machine", nil, ended(7, agentFailure{disk: errors.New("x")}), code(dreamcore.FailDisk)},
		{"the agent is killed in a full project", nil, ended(137, agentFailure{full: true}), dreamcore.ExitFailure(137)},
		{"the agent is cancelled", nil, ended(1, agentFailure{cancelled: true, full: true}), dreamcore.ExitFailure(143)},
		{"the agent runs out of budget", nil, ended(1, agentFailure{run: run{seen: dreamcore.FailRateLimit, overBudget: true}}), dreamcore.Failure{Code: dreamcore.FailRateLimit, Spent: true}},
		{"the model refuses", nil, ended(1, agentFailure{run: run{refused: true}}), dreamcore.Failure{Code: dreamcore.FailCLIGeneral, ExitCode: 1, HasExit: true, Refused: true}},
	} {
		ctx := t.Context()
		if tt.ctx != nil {
			ctx = tt.ctx
		}
		if got := classify(ctx, tt.err); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
