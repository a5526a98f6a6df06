package dreamcore

import "testing"

func TestEndState(t *testing.T) {
	for _, tt := range []struct {
		event Event
		state JobState
	}{
		{DoneEvent(), JobSucceeded},
		{ErrorEvent(ExitFailure(ExitTerminated), Japanese), JobCancelled},
		{ErrorEvent(ExitFailure(ExitTimeout), English), JobFailed},
		{ErrorEvent(Failure{Code: FailSandbox}, English), JobFailed},
		{Event(`{"type":"error","code":7}`), JobFailed},
		{StatusEvent("done"), ""},
		{Event(`{"type":"assistant","code":"CLI_TERMINATED"}`), ""},
		{nil, ""},
	} {
		if state, ok := EndState(tt.event); state != tt.state || ok != (tt.state != "") {
			t.Errorf("%s: %q, %v, want %q", tt.event, state, ok, tt.state)
		}
	}
}
