package generate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/agent"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func TestCommitMessage(t *testing.T) {
	for _, tt := range []struct{ name, wish, want string }{
		{"as it is", "a snake game", "a snake game"},
		{"one line of many", "a snake game\n\n- fast\r\n\t- cold", "a snake game - fast - cold"},
		{"white space around it", "  \n a game \u2028\u00a0", "a game"},
		{"control characters", "a\x1b[31mred\x07game\x7f", "a [31mred game"},
		{"a slash command", "/clear", "/clear"},
		{"just long enough", strings.Repeat("x", 72), strings.Repeat("x", 72)},
		{"too long", strings.Repeat("x", 73), strings.Repeat("x", 71) + "…"},
		{"runes, not bytes", strings.Repeat("氷", 72), strings.Repeat("氷", 72)},
		{"long and of runes", strings.Repeat("氷", 500), strings.Repeat("氷", 71) + "…"},
		{"emoji", "🐍❄️ game", "🐍❄️ game"},
		{"nothing to say", "\x00\x01", ""},
	} {
		if got := commitMessage(tt.wish); got != tt.want || !utf8.ValidString(got) {
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
