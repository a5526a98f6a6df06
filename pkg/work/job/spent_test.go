package job

import (
	"io"
	"net/http"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// A crash leaves no note of what an attempt has spent, but the record of the job shows
// it, however the job ends.
func TestTheRecordHasWhatACrashedAttemptHasSpent(t *testing.T) {
	ledger := openLedger(t, t.TempDir(), usage.Limits{})
	o := options{
		upstream: gateway.HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"usage":{"input_tokens":1000,"output_tokens":500}}`)
		})),
		parts: func(p *Parts) { p.Ledger = ledger },
		play: func(g guest) (int, error) {
			if _, _, err := g.ask(question); err != nil {
				return 0, err
			}
			return untilStopped(g)
		},
	}
	r := resuming(t, o)
	first, second := r.submit(stays(request(alice, "x"))), r.submit(stays(request(bob, "x")))
	for _, id := range []string{first, second} {
		r.until(id, isType("began"))
	}
	check := func(name string, j dreamcore.Job, state dreamcore.JobState) {
		t.Helper()
		if j.State != state || j.Input != 1000 || j.Output != 500 || j.Cost == 0 {
			t.Errorf("%s: %+v", name, j)
		}
	}
	o.play = untilStopped
	o.dir = r.crashed()
	o.settings = func(s *Settings) { s.Attempts = 1 }
	next := resuming(t, o)
	next.recover()
	check("ended instead of taken up", next.final(first), dreamcore.JobFailed)

	o.dir = r.crashed()
	o.settings = one
	next = resuming(t, o)
	next.recover()
	waiting := second
	if state, _, _ := next.service.State(first); state == dreamcore.JobQueued {
		waiting = first
	}
	next.until(waiting, says("Waiting in the queue"))
	next.service.Cancel(waiting)
	if _, debug := next.ends(next.events(waiting)); debug.Input != 1000 || debug.Cost == 0 {
		t.Errorf("cancelled while it waited: %+v", debug)
	}
	check("cancelled while it waited", must(next.service.Get(waiting))(t), dreamcore.JobCancelled)
}

// An agent must not get more of either with a second attempt, nor hide its answers from
// the count behind the bound of its output.
func TestAllAttemptsShareTheBoundsOfOutputAndTurns(t *testing.T) {
	o := options{settings: func(s *Settings) { s.OutputLines, s.Agent.Turns = 3, 10 }}
	o.play = func(g guest) (int, error) {
		g.say(`{"type":"status","type":"forged"}` + "\n" + lines(5, `{"type":"assistant","message":{"id":"%d"}}`))
		return untilStopped(g)
	}
	r := resuming(t, o)
	id := r.submit(stays(request(alice, "x")))
	r.until(id, says("not shown"))
	r.close()
	o.dir = r.dir
	turns := make(chan string, 1)
	o.play = func(g guest) (int, error) {
		turns <- g.arg("--max-turns")
		return makesGame(g)
	}
	next := resuming(t, o)
	next.recover()
	events := next.events(id)
	if last, _ := next.ends(events); last.Type != "done" || count(events, isType("assistant")) != 2 || count(events, isType("forged")) != 1 {
		t.Errorf("%+v", events)
	}
	if left := <-turns; left != "5" {
		t.Errorf("%s turns are left", left)
	}
}
