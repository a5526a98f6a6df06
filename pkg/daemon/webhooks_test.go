package daemon

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
)

func TestReceiversDoNotLearnTheAddressOfAClient(t *testing.T) {
	const address = "https://app.example.com/done?token=t0ken"
	e, err := endEvent(dreamcore.Job{ID: "1", State: dreamcore.JobFailed, WebhookURL: address})
	if err != nil || e.URL != address || e.Type != webhook.JobFailed || strings.Contains(string(e.Data), "t0ken") || !strings.Contains(string(e.Data), `"id":"1"`) {
		t.Errorf("%+v, %s, %v", e, e.Data, err)
	}
}

// longest returns the record with the longest JSON form that a job can have.
func longest() dreamcore.Job {
	text := func(n int) string { return strings.Repeat("<", n) } // six bytes each
	exit, now := 255, time.Now()
	a := dreamcore.Acceptance{
		Verdict: dreamcore.AcceptanceFailed, Browser: text(5000), Reason: text(5000), Attempt: 1 << 30, Millis: 1 << 62,
	}
	for range 2 * dreamcore.MaxAcceptanceChecks {
		a.Checks = append(a.Checks, dreamcore.AcceptanceCheck{
			Name: text(5000), Screen: text(5000), Status: dreamcore.AcceptanceFailed, Message: text(5000), File: text(5000), Line: 1 << 62,
		})
	}
	brief := a.Bounded().Brief()
	return dreamcore.Job{
		ID: "6f1b0f0e-0000-4000-8000-000000000001", User: "a11ce000-0000-4000-8000-000000000001", Project: "123e4567-e89b-42d3-a456-426614174000",
		Prompt: text(dreamcore.MaxRecordPrompt), PromptBytes: dreamcore.MaxPromptBytes, CommitMessage: text(dreamcore.MaxCommitMessageBytes),
		Language: dreamcore.Japanese, Detach: true, RequestID: text(dreamcore.MaxRequestID), HasKey: true, WebhookURL: text(2048),
		State: dreamcore.JobSucceeded, CancelRequested: true, Position: 1 << 62, Attempt: 1 << 62,
		Created: now, Started: now, FirstWord: now, Ended: now, LastEventID: 1 << 63,
		Cost: 1 << 62, Input: 1 << 62, Output: 1 << 62, Commit: text(40),
		Acceptance: &brief, Repairs: 1 << 62, ExitCode: &exit, Code: dreamcore.FailCLIGeneral, Cause: text(dreamcore.MaxCause),
	}
}

func TestTheLongestRecordFitsIntoAWebhook(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	open := func(dir string) *webhook.Service {
		s, err := webhook.New(webhook.Options{
			Dir: dir, Entries: []webhook.Entry{{URL: "http://" + closed.Addr().String(), Private: true}},
			Secret: func(string) ([]string, error) { return []string{"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	e, err := endEvent(longest())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := open(dir)
	err = s.Notify(e)
	if closeErr := s.Close(); err != nil || closeErr != nil {
		t.Fatalf("%d bytes: %v, %v", len(e.Data), err, closeErr)
	}
	s = open(dir) // reads the messages again
	if b := s.Backlog(); b.Messages != 1 {
		t.Errorf("%d messages of %d bytes wait", b.Messages, len(e.Data))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d bytes", len(e.Data))
}
