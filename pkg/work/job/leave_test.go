package job

import (
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// TestLeaveLeavesJobsToAnotherCell leaves the jobs of one user: the one that waits at
// once, the one that runs only when it is cut. Nothing takes them up again here, until
// they are no longer away.
func TestLeaveLeavesJobsToAnotherCell(t *testing.T) {
	away := false
	r := resuming(t, options{play: untilStopped, parts: func(p *Parts) {
		p.Away = func(user dreamcore.UserID) bool { return away && user == alice }
		p.Lists = func(user dreamcore.UserID) bool { return !away || user != alice }
	}})
	running := r.submit(request(alice, "one"))
	waiting := r.submit(request(alice, "two"))
	other := r.submit(request(bob, "three"))
	r.until(running, isType("began"))
	away = true
	ofAlice := func(u dreamcore.UserID) bool { return u == alice }
	if n, err := r.service.Leave(t.Context(), ofAlice, 100*time.Millisecond, false); n != 1 || err != nil {
		t.Fatalf("%d jobs run, %v", n, err)
	}
	if n, err := r.service.Leave(t.Context(), ofAlice, time.Minute, true); n != 0 || err != nil {
		t.Fatalf("%d jobs run, %v", n, err)
	}
	ids := must(r.service.IDs(t.Context(), alice))(t)
	if len(ids) != 2 {
		t.Errorf("%v", ids)
	}
	if err := r.service.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, lives := range map[string]bool{running: false, waiting: false, other: true} {
		if r.service.has(id) != lives {
			t.Errorf("job %s lives: %v", id, !lives)
		}
		if j := must(r.service.Get(id))(t); j.Final() {
			t.Errorf("%+v", j)
		}
		if lives {
			continue
		}
		if err := r.service.Cancel(id); dreamcore.CodeOf(err) != dreamcore.CodeMoving {
			t.Errorf("job %s, which is left to another cell, is cancelled: %v", id, err)
		}
	}
	if page := must(r.service.List(dreamcore.JobFilter{User: alice}))(t); len(page.Jobs) != 0 {
		t.Errorf("%d jobs are listed", len(page.Jobs))
	}
	if err := r.service.Adopt(t.Context(), bob, []string{running}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("the job of another user: %v", err)
	}
	if err := r.service.Adopt(t.Context(), alice, []string{dreamcore.NewJobID(alice), running}); err != nil {
		t.Errorf("a log that was removed to make room: %v", err)
	}
	away = false
	if err := r.service.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{running, waiting} {
		if !r.service.has(id) {
			t.Errorf("job %s was not taken up", id)
		}
		if err := r.service.Cancel(id); err != nil {
			t.Error(err)
		}
	}
	r.service.Cancel(other)
}
