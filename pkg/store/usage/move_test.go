package usage

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// TestImportedRecordsCountForTheUserAlone takes over what a user has spent in another
// cell, twice, and opens the ledger again, also after the days have closed.
func TestImportedRecordsCountForTheUserAlone(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	writeMonth(t, from)
	c := writeMonth(t, to)
	var lines bytes.Buffer
	if err := WriteUser(from, "u3", &lines); err != nil {
		t.Fatal(err)
	}
	// The two cells have the same records, so that the records must be made others.
	moved := strings.ReplaceAll(lines.String(), `"job":""`, `"job":"other"`)
	l := open(t, to, c, Limits{})
	before, err := l.Spending()
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	machine := l.machine
	l.mu.Unlock()
	for i, want := range []int{strings.Count(moved, "\n"), 0} {
		if n, err := l.Import("u3", strings.NewReader(moved)); n != want || err != nil {
			t.Errorf("import %d: %d records, %v", i, n, err)
		}
	}
	if n, err := l.Import("u3", strings.NewReader(lines.String())); n != 0 || err != nil {
		t.Errorf("records of its own: %d, %v", n, err)
	}
	check := func(when string, l *Ledger) {
		t.Helper()
		after, err := l.Spending()
		if err != nil {
			t.Fatal(err)
		}
		for user, spent := range before {
			want := spent
			if user == "u3" {
				want *= 2
			}
			if after[user] != want {
				t.Errorf("%s: %s has spent %d, want %d", when, user, after[user], want)
			}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.machine.month != machine.month {
			t.Errorf("%s: the machine has spent %v, want %v", when, l.machine.month, machine.month)
		}
	}
	check("after the import", l)
	for range 2 { // the second one reads the sums of closed days
		check("opened again", open(t, to, c, Limits{}))
	}
	report, err := NewReport("user")
	if err != nil {
		t.Fatal(err)
	}
	var all dreamcore.Nano
	if err := Read(to, time.Time{}, func(r Record) {
		report.Add(r)
		if !r.Moved {
			all = all.Add(r.Cost)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if report.Total.Cost != all {
		t.Errorf("the report has %d, want %d", report.Total.Cost, all)
	}
}

func TestImportsOfOtherUsersAreRefused(t *testing.T) {
	dir := t.TempDir()
	c := writeMonth(t, dir)
	l := open(t, dir, c, Limits{})
	good := `{"t":"2026-11-05T12:00:00Z","user":"x","project":"","job":"","model":"","n":1,"in":5,"nano":7}` + "\n"
	for name, text := range map[string]string{"another user": good + strings.ReplaceAll(good, `"x"`, `"y"`), "a torn line": good + good[:20]} {
		if n, err := l.Import("x", strings.NewReader(text)); n != 0 || dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if n, err := l.Import("x", strings.NewReader(good)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
