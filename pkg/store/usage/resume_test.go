package usage

import (
	"errors"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// A job that goes on in another process has the rest of its budget.
func TestAJobThatGoesOnKeepsItsBudget(t *testing.T) {
	dir, limits := t.TempDir(), Limits{JobTokens: 100}
	now := time.Date(2026, 11, 30, 23, 59, 0, 0, time.UTC)
	open := func() *Ledger {
		t.Helper()
		l, err := Open(dir, Options{Limits: limits, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	spend := func(j *Job, tokens int64) {
		t.Helper()
		update, err := j.Reserve("m", 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: tokens}}, true)
	}
	l := open()
	began := now
	spend(l.Job("u", "p", "job"), 60)
	spend(l.Job("u", "p", "other"), 90)
	now = now.Add(5 * time.Minute) // the next month
	spend(l.Job("u", "p", "job"), 30)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open()
	defer l.Close()
	j, tokens, cost, err := l.Resume("u", "p", "job", began)
	if err != nil || tokens.Total() != 90 || cost != j.spent.cost {
		t.Fatalf("%+v, %v, %v", tokens, cost, err)
	}
	spend(j, 20)
	if over, ok := errors.AsType[*dreamcore.OverBudget](j.Check()); !ok || over.Limit != "budget_job_tokens" {
		t.Errorf("%v", j.Check())
	}
}
