package job

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

func TestVersionName(t *testing.T) {
	const prompt = "<system>You write games.</system>\na snake\ngame"
	for _, tt := range []struct{ name, request, setting, want string }{
		{"the player's words", "", "", "a snake game"},
		{"the setting", "", "AI: {{.Prompt}}", "AI: a snake game"},
		{"the request", "Save\nthe game", "AI: {{.Prompt}}", "Save the game"},
		{"a blank request", " \n\x00", "AI", "AI"},
		{"a long request", strings.Repeat("x", 100), "", strings.Repeat("x", 71) + "…"},
		{"a setting that cannot be executed", "", "{{slice .Prompt 0 100}}", "a snake game"},
	} {
		j := &job{id: "j", request: dreamcore.GenerateRequest{Prompt: prompt, CommitMessage: tt.request}, settings: Settings{CommitMessage: tt.setting}}
		if got := j.versionName(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

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
		// What ended the CLI by force says more than what the model did before.
		{124, dreamcore.FailRateLimit, dreamcore.Failure{Code: dreamcore.FailCLITimeout, ExitCode: 124, HasExit: true}},
		{137, dreamcore.FailNetwork, dreamcore.Failure{Code: dreamcore.FailCLIKilled, ExitCode: 137, HasExit: true}},
		{143, dreamcore.FailNetwork, dreamcore.Failure{Code: dreamcore.FailCLITerminated, ExitCode: 143, HasExit: true}},
		{7, "", dreamcore.Failure{Code: dreamcore.FailCLIUnknown, ExitCode: 7, HasExit: true}},
	} {
		if got := verdict(agent.Outcome{ExitCode: tt.exit}, tt.seen); got != tt.want {
			t.Errorf("exit code %d, seen %q: %+v, want %+v", tt.exit, tt.seen, got, tt.want)
		}
	}
}

func TestFailureOfAnError(t *testing.T) {
	lost := fmt.Errorf("run: %w", sandbox.ErrLost)
	for _, tt := range []struct {
		name string
		err  error
		want dreamcore.Failure
	}{
		{"a failure with its own code", fmt.Errorf("x: %w", &failed{dreamcore.Failure{Code: dreamcore.FailNetwork}, lost}), dreamcore.Failure{Code: dreamcore.FailNetwork}},
		{"a lost sandbox", lost, dreamcore.Failure{Code: dreamcore.FailSandboxLost}},
		{"out of memory", fmt.Errorf("%w: %w", sandbox.ErrOutOfMemory, lost), dreamcore.ExitFailure(137)},
		{"anything else", errors.New("x"), dreamcore.Failure{Code: dreamcore.FailUnknown}},
	} {
		if got := failureOf(t.Context(), tt.err); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
