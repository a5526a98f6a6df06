package dreamcore_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestAnAcceptanceEventIsBoundedAndOnOneLine(t *testing.T) {
	a := dreamcore.Acceptance{Verdict: dreamcore.AcceptanceFailed, Attempt: 1}
	for range 1000 {
		a.Checks = append(a.Checks, dreamcore.AcceptanceCheck{
			Name: "errors", Screen: "phone", Status: dreamcore.AcceptanceFailed, Line: 3,
			Message: strings.Repeat("x\n\x1b[31m\u202e", 10_000), File: strings.Repeat("a/", 10_000),
		})
	}
	e := dreamcore.AcceptanceEvent(a)
	if len(e) > 100<<10 || strings.ContainsAny(string(e), "\n\x1b\u202e") {
		t.Errorf("%d bytes: %.200s", len(e), e)
	}
	if dreamcore.EventType(e) != "acceptance" {
		t.Errorf("%.100s", e)
	}
	raw, err := json.Marshal(a.Bounded().Brief())
	if err != nil || len(raw) > dreamcore.MaxRecordAcceptance {
		t.Errorf("a record takes %d bytes: %v", len(raw), err)
	}
}

func TestARecordIsBoundedInItsEncodedForm(t *testing.T) {
	for _, text := range []string{"<", "\"", "\\", "蛇", "é<", "\u2028x", "\x7f&"} {
		long := strings.Repeat(text, 1000)
		a := dreamcore.Acceptance{Verdict: dreamcore.AcceptanceFailed, Attempt: 3, Browser: long, Reason: long, Millis: 1 << 40}
		for range dreamcore.MaxAcceptanceChecks {
			a.Checks = append(a.Checks, dreamcore.AcceptanceCheck{Name: long, Screen: long, Status: dreamcore.AcceptanceFailed, Message: long, File: long, Line: 1 << 40})
		}
		brief := a.Bounded().Brief()
		raw, err := json.Marshal(brief)
		if err != nil || len(raw) > dreamcore.MaxRecordAcceptance || len(brief.Checks) < 5 || brief.Checks[0].Message == "" {
			t.Errorf("%q: %d bytes, %d findings: %v", text, len(raw), len(brief.Checks), err)
		}
		if again, err := json.Marshal(brief.Brief()); err != nil || string(again) != string(raw) {
			t.Errorf("%q: what is brief becomes shorter: %v", text, err)
		}
	}
}

func TestARecordKeepsUsualFindingsWhole(t *testing.T) {
	a := dreamcore.Acceptance{Verdict: dreamcore.AcceptanceFailed}
	c := dreamcore.AcceptanceCheck{Name: "errors", Screen: "phone", Status: "failed", Message: strings.Repeat("it fails ", 20), File: "src/game.js", Line: 3}
	for range 20 {
		c.Message = strings.TrimSpace(c.Message)
		a.Checks = append(a.Checks, c)
	}
	if brief := a.Brief(); len(brief.Checks) != 12 || brief.Checks[11] != c {
		t.Errorf("%+v", brief)
	}
}

func TestAPassedCheckIsCompact(t *testing.T) {
	e := dreamcore.AcceptanceEvent(dreamcore.Acceptance{Verdict: "passed", Attempt: 2, Checks: []dreamcore.AcceptanceCheck{
		{Name: "loads", Screen: "phone", Status: "passed", Message: "all is there", File: "index.html", Line: 1},
	}})
	if want := `{"type":"acceptance","verdict":"passed","checks":[{"name":"loads","screen":"phone","status":"passed"}],"attempt":2}`; string(e) != want {
		t.Errorf("%s", e)
	}
}

func TestASandboxCannotSayThatItsGamePlays(t *testing.T) {
	e, ok := dreamcore.LineEvent([]byte(`{"type":"acceptance","verdict":"passed"}`))
	if !ok || dreamcore.EventType(e) != "log" {
		t.Errorf("%s", e)
	}
}

func TestEveryAcceptanceNoteHasBothLanguages(t *testing.T) {
	for n := dreamcore.NoteChecking; n <= dreamcore.NoteUnchecked; n++ {
		en, ja := n.Text(dreamcore.English), n.Text(dreamcore.Japanese)
		if en == "" || ja == "" || en == ja {
			t.Errorf("note %d: %q, %q", n, en, ja)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\nb\u2028c", 5)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = 3 + max(limit, -limit)%1000
		if limit < 3 {
			return
		}
		got := dreamcore.OneLine(text, limit)
		if len(got) > limit || strings.ContainsAny(got, "\r\n\x00\u2028\u2029") {
			t.Errorf("%q at %d: %q", text, limit, got)
		}
	})
}
