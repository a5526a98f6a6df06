package job

import (
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// hostile is a report with all that a page can put into one.
func hostile() verdict.Report {
	r := verdict.Report{Verdict: verdict.Failed, Browser: strings.Repeat("<", 500)}
	for range verdict.MaxChecks {
		r.Checks = append(r.Checks, verdict.Check{
			Name: verdict.Errors, Screen: verdict.Phone, Status: verdict.Failed,
			Message: strings.Repeat("<", 500), File: strings.Repeat("<", 300), Line: verdict.MaxPosition,
		})
	}
	return r
}

// fills is an agent that writes more than its log can hold, and then makes a game.
func fills(play program) program {
	return func(g guest) (int, error) {
		g.say(lines(200, `{"type":"user","n":%d,"x":"`+strings.Repeat("x", 1000)+`"}`))
		return play(g)
	}
}

func TestHostileFindingsDoNotKeepAJobFromItsEnd(t *testing.T) {
	var prompts asked
	b := &browser{fn: inOrder(hostile())}
	o := accepting(b, AcceptanceFail, fills(mends(&prompts)))
	o.journal = journal.Options{MaxLogBytes: 100 << 10}
	r := newRig(t, o)
	id := r.submit(request(alice, "x"))
	events := r.until(id, isType("error"))
	if last := events[len(events)-1]; last.Code != string(dreamcore.FailGameBroken) || !strings.Contains(r.log.String(), "the log of the job is full") {
		t.Fatalf("%+v\n%s", last, r.log)
	}
	if len(r.log.String()) > 64<<10 {
		t.Errorf("the log of the service has %d bytes", len(r.log.String()))
	}
	j := r.final(id)
	if len(r.service.unended) != 0 || j.State != dreamcore.JobFailed || j.Acceptance == nil || len(j.Acceptance.Checks) == 0 {
		t.Errorf("%+v", j)
	}
}

func TestAnEndThatDoesNotFitIsShortened(t *testing.T) {
	r := newRig(t, options{journal: journal.Options{MaxLogBytes: 8 << 10}})
	log := must(r.parts.Journal.Create("6f1b0f0e-0000-4000-8000-000000000001"))(t)
	defer log.Close()
	l := &liveJob{id: log.Job(), user: alice, log: log}
	l.row.ID, l.row.User, l.row.Project, l.row.Created = log.Job(), alice, project, time.Now()
	var long []dreamcore.AcceptanceCheck
	for range 100 {
		long = append(long, dreamcore.AcceptanceCheck{Name: "errors", Status: "failed", Message: strings.Repeat("<", 500)})
	}
	f := dreamcore.Failure{Code: dreamcore.FailGameBroken}
	r.service.conclude(l, dreamcore.ErrorEvent(f, dreamcore.English), endNote{
		At: time.Now(), Code: f.Code, Exit: 1, Cause: strings.Repeat("<", dreamcore.MaxCause), Commit: "1234567", Repairs: 2,
		Acceptance: &dreamcore.Acceptance{Verdict: "failed", Attempt: 3, Checks: long},
	})
	if len(r.service.unended) != 0 {
		t.Fatalf("it has not ended\n%s", r.log)
	}
	fromLog := must(r.service.read(l.id, time.Time{}))(t).row
	for _, j := range []dreamcore.Job{must(r.service.Get(l.id))(t), fromLog.Job} {
		if j.Code != f.Code || j.Commit != "1234567" || j.Repairs != 2 || j.Acceptance == nil || j.Acceptance.Verdict != "failed" || len(j.Acceptance.Checks) != 0 {
			t.Errorf("%+v", j)
		}
	}
}
