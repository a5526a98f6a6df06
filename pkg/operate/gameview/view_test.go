package gameview

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

var request = dreamcore.Request{UserID: "U", ProjectID: "P", Prompt: "a snake"}

var events = []string{
	`{"type":"status","message":"starting"}`,
	`{"type":"system","subtype":"init","claude_code_version":"1.2.3","model":"haiku"}`,
	`{"type":"assistant","message":{"content":[{"type":"text","text":"I write it"},{"type":"tool_use","name":"Write","input":{"file_path":"/data/users/u/projects/p/js/a.js","content":"12345"}}]}}`,
	`{"type":"user"}`,
	`{"type":"warning","message":"slow \u001b[31m"}`,
	`{"type":"result","num_turns":3,"total_cost_usd":0.25}`,
	`{"type":"debug","git_commit":"abc123"}`,
	`not JSON`,
}

func TestAGenerationIsShownToPeople(t *testing.T) {
	io, out, _ := term.Buffers("")
	v := New(io, request)
	v.Sandbox = "gVisor sandbox"
	for _, e := range events {
		if err := v.Event(dreamcore.Event(e)); err != nil {
			t.Fatal(err)
		}
	}
	v.Stop()
	v.Done()
	shown := out.String()
	for _, want := range []string{"a snake", "Claude Code 1.2.3 in a gVisor sandbox", "I write it", "js/a.js", "5 B", "slow", "The game is done", "3 turns", "0.25", "version abc123"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not in\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "/data/users") || strings.Contains(shown, "\x1b") {
		t.Errorf("it shows a path of the sandbox or a control character:\n%q", shown)
	}
	v.Failed(client.Outcome{Code: dreamcore.FailNetwork, UserMessage: "no network", HasExit: true, ExitCode: 7})
	if !strings.Contains(out.String(), "no network") || !strings.Contains(out.String(), "exit code 7") {
		t.Errorf("%s", out)
	}
}

func TestProgramsGetTheEventsUnchanged(t *testing.T) {
	io, out, errOut := term.Buffers("")
	io.JSON = true
	v := New(io, request)
	for _, e := range events {
		if err := v.Event(dreamcore.Event(e)); err != nil {
			t.Fatal(err)
		}
	}
	v.Stop()
	v.Done()
	v.Failed(client.Outcome{})
	if out.String() != strings.Join(events, "\n")+"\n" || errOut.String() != "" {
		t.Errorf("%s%s", out, errOut)
	}
}

func TestTheVersionOfAJobIsThatOfItsLastSummary(t *testing.T) {
	for want, events := range map[string][]string{
		"":        {`{"type":"debug"}`},
		"abcdef0": {`{"type":"debug","git_commit":"0000000"}`, `{"type":"debug","git_commit":"abcdef0"}`},
		"abcdef1": {`{"type":"debug","git_commit":"abcdef1"}`, `{"type":"other","git_commit":"abcdef0"}`},
	} {
		for _, json := range []bool{false, true} {
			io, _, _ := term.Buffers("")
			io.JSON = json
			v := New(io, dreamcore.Request{Prompt: "x"})
			for _, e := range events {
				if err := v.Event(dreamcore.Event(e)); err != nil {
					t.Fatal(err)
				}
			}
			if got := v.Commit(); got != want {
				t.Errorf("%q: %q", events, got)
			}
			for _, bad := range []string{"abc123", "../abcdef", "abcdef0&screen=x"} {
				if v.commit = bad; v.Commit() != "" {
					t.Errorf("%q", bad)
				}
			}
		}
	}
}
