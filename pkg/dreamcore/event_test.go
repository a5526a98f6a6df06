package dreamcore_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestEventsMatchTheContract(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  dreamcore.Event
		want string
	}{
		{"status", dreamcore.StatusEvent("a <b> & c"), `{"type":"status","message":"a <b> & c"}`},
		{"log", dreamcore.LogEvent("Git commit created: 1a2b3c4", "info"), `{"type":"log","content":"Git commit created: 1a2b3c4","level":"info"}`},
		{"log without level", dreamcore.LogEvent("x", ""), `{"type":"log","content":"x"}`},
		{"warning", dreamcore.WarningEvent("w"), `{"type":"warning","message":"w"}`},
		{"done", dreamcore.DoneEvent(), `{"type":"done","exit_code":0}`},
		{
			"debug", dreamcore.DebugEvent(dreamcore.Summary{Elapsed: 12339 * time.Millisecond, OutputLines: 57, SandboxReused: true, GitCommit: "1a2b3c4", FilesChanged: 3}),
			`{"type":"debug","exit_code":0,"elapsed_seconds":12.34,"output_line_count":57,"sandbox_reused":true,"agent_warm":false,"git_commit":"1a2b3c4","files_changed":3}`,
		},
		{
			"debug after a timeout", dreamcore.DebugEvent(dreamcore.Summary{ExitCode: 124, TimeoutReached: true}),
			`{"type":"debug","exit_code":124,"elapsed_seconds":0,"output_line_count":0,"sandbox_reused":false,"agent_warm":false,"timeout_reached":true,"files_changed":0}`,
		},
		{
			"the CLI exited with an error", dreamcore.ErrorEvent(dreamcore.ExitFailure(124), dreamcore.English),
			`{"type":"error","exitCode":124,"code":"CLI_TIMEOUT","userMessage":"Making your game took too long. Try a simpler request, or try again.","recoverable":true}`,
		},
		{
			"the sandbox failed", dreamcore.ErrorEvent(dreamcore.Failure{Code: dreamcore.FailSandbox}, dreamcore.English),
			`{"type":"error","code":"SANDBOX_ERROR","userMessage":"The workspace for your game could not be opened. Please contact support if it happens again.","recoverable":false}`,
		},
	} {
		if string(tt.got) != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, tt.got, tt.want)
		}
	}
}

func TestFailureCodesFollowFromExitCodes(t *testing.T) {
	for code, want := range map[int]struct {
		code        dreamcore.FailureCode
		recoverable bool
	}{
		1: {dreamcore.FailCLIGeneral, false}, 124: {dreamcore.FailCLITimeout, true}, 137: {dreamcore.FailCLIKilled, true},
		143: {dreamcore.FailCLITerminated, true}, 2: {dreamcore.FailCLIUnknown, false}, 139: {dreamcore.FailCLIUnknown, false},
	} {
		f := dreamcore.ExitFailure(code)
		if f.Code != want.code || f.Recoverable() != want.recoverable || !f.HasExit || f.ExitCode != code {
			t.Errorf("exit code %d: %+v, recoverable %v", code, f, f.Recoverable())
		}
	}
	for code, recoverable := range map[dreamcore.FailureCode]bool{
		dreamcore.FailNetwork: true, dreamcore.FailAuth: false, dreamcore.FailRateLimit: true,
		dreamcore.FailAPITimeout: true, dreamcore.FailSandbox: false, dreamcore.FailUnknown: false,
		dreamcore.FailNoGame: true, dreamcore.FailDisk: true, dreamcore.FailQuota: false, dreamcore.FailSandboxLost: true, dreamcore.FailGameBroken: true,
	} {
		f := dreamcore.Failure{Code: code}
		if f.Recoverable() != recoverable {
			t.Errorf("%s: recoverable %v", code, f.Recoverable())
		}
		en, ja := f.UserMessage(dreamcore.English), f.UserMessage(dreamcore.Japanese)
		if en == "" || ja == "" || en == ja {
			t.Errorf("%s has the messages %q and %q", code, en, ja)
		}
		if unknown := (dreamcore.Failure{Code: dreamcore.FailUnknown}).UserMessage(dreamcore.English); en == unknown && code != dreamcore.FailUnknown {
			t.Errorf("%s has no message of its own", code)
		}
	}
}

func TestAgentLinesBecomeEvents(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{`{"type":"assistant","x":[1,2]}`, `{"type":"assistant","x":[1,2]}`},
		{`  {"type":"system"}  `, `{"type":"system"}`},
		{`plain text`, `{"type":"log","content":"plain text"}`},
		{`{"cut`, `{"type":"log","content":"{\"cut"}`},
		{`[1,2]`, `{"type":"log","content":"[1,2]"}`},
		{`"text"`, `{"type":"log","content":"\"text\""}`},
		{`{"type":"done","exit_code":0}`, `{"type":"log","content":"{\"type\":\"done\",\"exit_code\":0}"}`},
		{`{"type":"error"}`, `{"type":"log","content":"{\"type\":\"error\"}"}`},
		{`{"type":"done","Type":"x"}`, `{"type":"log","content":"{\"type\":\"done\",\"Type\":\"x\"}"}`},
		{`{"type":"x","type":"done"}`, `{"type":"log","content":"{\"type\":\"x\",\"type\":\"done\"}"}`},
		{`{"ty\u0070e":"done"}`, `{"type":"log","content":"{\"ty\\u0070e\":\"done\"}"}`},
	} {
		if got, ok := dreamcore.LineEvent([]byte(tt.line)); !ok || string(got) != tt.want {
			t.Errorf("%s:\n got %s %v\nwant %s", tt.line, got, ok, tt.want)
		}
	}
	for _, blank := range []string{"", " ", "\t\r"} {
		if e, ok := dreamcore.LineEvent([]byte(blank)); ok {
			t.Errorf("the blank line %q becomes the event %s", blank, e)
		}
	}
}

func FuzzLineEvent(f *testing.F) {
	for _, s := range []string{`{"type":"done"}`, "x", "\x00\xff", `{"a":"` + strings.Repeat("x", 100) + `"}`, "{\"a\":1}\r{\"b\":2}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, ok := dreamcore.LineEvent(line)
		if !ok {
			return
		}
		if !json.Valid(e) || strings.ContainsAny(string(e), "\r\n") {
			t.Errorf("%q is not one event on one line: %q", line, e)
		}
		if kind := dreamcore.EventType(e); kind == "done" || kind == "error" {
			t.Errorf("%q ends the stream", line)
		}
	})
}
