package job

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const someJob = "33333333-3333-4333-8333-333333333333"

// written makes a log of notes and events, and returns the past that it tells.
func written(t *testing.T, r *rig, lines ...any) *past {
	t.Helper()
	log := must(r.parts.Journal.Create(someJob))(t)
	for _, l := range lines {
		var err error
		switch l := l.(type) {
		case note:
			err = log.Note(l.encode())
		case string:
			_, err = log.Append(dreamcore.Event(l))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Suspend(); err != nil {
		t.Fatal(err)
	}
	p := must(r.service.read(someJob, at(100)))(t)
	if err := r.parts.Journal.Remove(someJob); err != nil {
		t.Fatal(err)
	}
	return p
}

func at(seconds int) time.Time { return time.Unix(1_800_000_000+int64(seconds), 0) }

func TestThePastOfAJobIsInItsLog(t *testing.T) {
	r := newRig(t, options{})
	asked := note{Job: &jobNote{At: at(0), User: alice, Project: project, Prompt: "x", Language: "ja", Resume: true}}
	attempt := func(n, used int) note {
		return note{Attempt: &attemptNote{Number: n, At: at(10 * n), Used: time.Duration(used) * time.Second}}
	}
	ran := func(s int) note { return note{Run: &runNote{At: at(s)}} }
	cut := func(used int) note {
		return note{Cut: &cutNote{At: at(50), Used: time.Duration(used) * time.Second, Cost: 5, Tokens: dreamcore.Tokens{Input: 7}}}
	}
	for name, c := range map[string]struct {
		lines []any
		want  earlier
		state dreamcore.JobState
	}{
		"waits":          {[]any{asked, `{"type":"status"}`}, earlier{}, dreamcore.JobQueued},
		"crashed early":  {[]any{asked, attempt(1, 0)}, earlier{attempts: 1, crashes: 1}, dreamcore.JobRunning},
		"crashed":        {[]any{asked, attempt(1, 0), ran(40)}, earlier{attempts: 1, crashes: 1, ran: true, used: time.Minute}, dreamcore.JobRunning},
		"cut":            {[]any{asked, attempt(1, 0), ran(40), cut(9)}, earlier{attempts: 1, ran: true, used: 9 * time.Second, cost: 5, tokens: dreamcore.Tokens{Input: 7}}, dreamcore.JobRunning},
		"crashed twice":  {[]any{asked, attempt(1, 0), ran(11), attempt(2, 30), ran(90)}, earlier{attempts: 2, crashes: 2, ran: true, used: 40 * time.Second}, dreamcore.JobRunning},
		"cut in a queue": {[]any{asked, attempt(1, 0), ran(11), cut(9), `{"type":"status"}`}, earlier{attempts: 1, ran: true, used: 9 * time.Second, cost: 5, tokens: dreamcore.Tokens{Input: 7}}, dreamcore.JobRunning},
		"talked": {[]any{
			asked, attempt(1, 0), ran(100), `{"type":"assistant","message":{"id":"a"}}`, `{"type":"assistant","message":{"id":"a"}}`,
			`{"type":"user","text":"\"assistant\""}`, `{"type":"assistant","message":{"id":"b"}}`,
		}, earlier{attempts: 1, crashes: 1, ran: true, talked: true, turns: 2, lines: 4}, dreamcore.JobRunning},
	} {
		p := written(t, r, c.lines...)
		if p.earlier != c.want || p.row.State != c.state || p.ended || !p.known || !p.resume || p.request.Prompt != "x" || p.row.Language != "ja" {
			t.Errorf("%s: %+v, want %+v", name, p, c.want)
		}
	}
	if p := written(t, r, asked, note{Cancel: &cancelNote{Why: "because"}}); p.cancel != "because" {
		t.Errorf("a cancelled job: %+v", p)
	}
}

func TestLogsOfEarlierVersionsHaveRecords(t *testing.T) {
	r := newRig(t, options{})
	p := written(t, r, `{"type":"status","message":"x"}`,
		`{"type":"debug","exit_code":0,"git_commit":"1a2b3c4","cost_usd":0.5,"input_tokens":10,"output_tokens":3}`, `{"type":"done","exit_code":0}`)
	j := p.row.Job
	if !p.ended || p.known || j.State != dreamcore.JobSucceeded || j.Commit != "1a2b3c4" || j.Cost != dreamcore.Dollars(dreamcore.NanoPerDollar/2) || j.Input != 10 || j.LastEventID != 3 {
		t.Errorf("%+v", j)
	}
	p = written(t, r, `{"type":"error","exitCode":124,"code":"CLI_TIMEOUT"}`)
	if j := p.row.Job; j.State != dreamcore.JobFailed || j.Code != dreamcore.FailCLITimeout || *j.ExitCode != 124 || j.Ended != at(100) {
		t.Errorf("%+v", j)
	}
}

func TestTextsInRecordsAreBounded(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("x", 2000), strings.Repeat("あ", 700), strings.Repeat("é", 700), "x" + strings.Repeat("🎮", 400)} {
		got := clip(s, 1000)
		if len(got) > 1000 || !utf8.ValidString(got) || len(s) <= 1000 && got != s || len(s) > 1000 && (len(got) < 990 || !strings.HasSuffix(got, "…")) {
			t.Errorf("%d bytes become %d: %q", len(s), len(got), got)
		}
	}
	s := &Service{parts: Parts{Redact: func(s string) string { return strings.ReplaceAll(s, "secret", "***") }}}
	if got := s.cause(errFake); got != errFake.Error() {
		t.Errorf("%q", got)
	}
	if got := s.cause(&dreamcore.Error{Message: strings.Repeat("x\n", 498) + "secret"}); strings.Contains(got, "sec") || strings.Contains(got, "\n") {
		t.Errorf("%q", got)
	}
}
