package job

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// One log that cannot be read is no reason for the other jobs not to go on, nor for the
// service not to start.
func TestADamagedLogKeepsNoOtherJobFromGoingOn(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		r := resuming(t, options{play: untilStopped})
		damaged, whole := r.submit(stays(request(alice, "x"))), r.submit(stays(request(bob, "x")))
		for _, id := range []string{damaged, whole} {
			r.until(id, isType("began"))
		}
		if err := r.parts.Records.Complete(); err != nil {
			t.Fatal(err)
		}
		r.close()
		f := must(os.OpenFile(filepath.Join(r.dir, "jobs", damaged+".ndjson"), os.O_WRONLY|os.O_APPEND, 0))(t)
		_, err := f.WriteString("#{\n")
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		// A log of which not even the end can be read.
		if err := os.Mkdir(filepath.Join(r.dir, "jobs", "11111111-1111-4111-8111-111111111111.ndjson"), 0o700); err != nil {
			t.Fatal(err)
		}
		if fresh {
			if err := os.Remove(filepath.Join(r.dir, "index.db")); err != nil {
				t.Fatal(err)
			}
		}
		next := resuming(t, options{dir: r.dir})
		if next.parts.Records.Fresh() != fresh {
			t.Fatalf("the index is fresh: %t, want %t", !fresh, fresh)
		}
		next.recover()
		if last, _ := next.ends(next.events(whole)); last.Type != "done" {
			t.Errorf("the other job: %+v", last)
		}
		if err := next.service.Reconcile(t.Context()); err != nil || next.parts.Records.Fresh() {
			t.Errorf("the index does not follow the other logs: %v", err)
		}
		if !strings.Contains(next.log.String(), damaged) {
			t.Errorf("the damaged log is not named:\n%s", next.log)
		}
		// They are set aside, noticed once, and removed in the end.
		jobs := filepath.Join(r.dir, "jobs")
		if n, _, err := journal.CountDamaged(jobs); n != 2 || err != nil {
			t.Errorf("%d damaged logs, %v", n, err)
		}
		if _, err := next.service.Get(damaged); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
			t.Errorf("the damaged job: %v", err)
		}
		said := strings.Count(next.log.String(), damaged)
		if err := errors.Join(next.service.Reconcile(t.Context()), next.service.PruneDamaged(t.Context(), time.Now().Add(-time.Hour))); err != nil || strings.Count(next.log.String(), damaged) != said {
			t.Errorf("noticed again: %v\n%s", err, next.log)
		}
		if err := next.service.PruneDamaged(t.Context(), time.Now().Add(time.Hour)); err != nil || !strings.Contains(next.log.String(), "removed the damaged log") {
			t.Errorf("removed: %v", err)
		}
		if n, _, _ := journal.CountDamaged(jobs); n != 0 {
			t.Errorf("%d damaged logs are left", n)
		}
		if list := must(next.service.List(dreamcore.JobFilter{User: bob}))(t); len(list.Jobs) != 1 || list.Jobs[0].ID != whole {
			t.Errorf("%+v", list)
		}
	}
}

// A job whose version is saved must not run again because its end could not be
// written.
func TestAnEndThatCouldNotBeWrittenIsWrittenLater(t *testing.T) {
	r := resuming(t, options{})
	hold := make(chan struct{})
	r.playing(func(g guest) (int, error) {
		exit, err := makesGame(g)
		<-hold
		return exit, err
	})
	id := r.submit(request(alice, "x"))
	r.until(id, isType("result"))
	r.service.mu.Lock()
	l := r.service.jobs[id]
	r.service.mu.Unlock()
	if err := l.log.Close(); err != nil { // nothing more can be written
		t.Fatal(err)
	}
	close(hold)
	<-l.done
	if versions := r.versions(alice); len(versions) != 1 {
		t.Fatalf("versions %q\n%s", versions, r.log)
	}
	if j := must(r.service.Get(id))(t); j.Final() {
		t.Errorf("%+v", j)
	}
	r.playing(func(guest) (int, error) {
		t.Error("it runs again")
		return 1, nil
	})
	if err := r.service.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if j := r.final(id); j.State != dreamcore.JobSucceeded || j.Commit == "" || j.Attempt != 1 || j.LastEventID == 0 {
		t.Errorf("%+v", j)
	}
	if events := r.events(id); events[len(events)-1].Type != "done" || len(r.service.unended) != 0 {
		t.Errorf("%+v", events)
	}
}
