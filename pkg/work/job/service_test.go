package job

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

func one(s *Settings) { s.Running = 1 }

func TestSlotIsFreedBeforeTheLastEvent(t *testing.T) {
	r := newRig(t, options{})
	w := request(alice, "x")
	w.TestError = dreamcore.TestErrorGeneral // the shortest possible job
	for i := range 100 {
		id, err := r.service.Submit(t.Context(), w, dreamcore.English)
		if err != nil {
			t.Fatalf("job %d: %v", i, err)
		}
		r.until(id, isType("error"))
	}
}

func TestAnotherJobOfAUserWaitsItsTurn(t *testing.T) {
	r := newRig(t, options{play: untilStopped, settings: func(s *Settings) { s.Running, s.Waiting, s.PerUser = 5, 10, 3 }})
	first := r.submit(request(alice, "1"))
	r.until(first, isType("began"))
	ids := []string{first}
	for range 3 {
		ids = append(ids, r.submit(request(alice, "x")))
	}
	r.until(ids[3], says("place 3"))
	_, err := r.service.Submit(t.Context(), request(alice, "one too many"), dreamcore.English)
	if dreamcore.CodeOf(err) != dreamcore.CodeBusy || dreamcore.HintOf(err) == "" {
		t.Errorf("a fifth job: %v", err)
	}
	other := r.submit(request(bob, "x"))
	r.until(other, isType("began")) // it does not wait for those of Alice
	// They run in order, one after another.
	for i, id := range ids {
		r.until(id, isType("began"))
		for _, later := range ids[i+1:] {
			if state, _, ok := r.service.State(later); state != dreamcore.JobQueued || !ok {
				t.Errorf("while job %d runs, a later one is %q", i, state)
			}
		}
		r.service.Cancel(id)
		r.events(id)
	}
	if logs, err := filepath.Glob(filepath.Join(r.dir, "jobs", "*")); err != nil || len(logs) != 5 {
		t.Errorf("logs %v, %v", logs, err)
	}
}

func TestPositionsInTheQueueAreReported(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, options{settings: one, play: func(g guest) (int, error) {
		g.say("{\"type\":\"began\"}\n")
		select {
		case <-release:
		case <-g.Killed:
		}
		return makesGame(g)
	}})
	first := r.submit(request(user(1), "x"))
	r.until(first, isType("began"))
	second, third := r.submit(request(user(2), "x")), r.submit(request(user(3), "x"))
	r.until(third, says("place 2"))
	close(release)
	for i, id := range []string{first, second, third} {
		events := r.events(id)
		if last, _ := r.ends(events); last.Type != "done" {
			t.Errorf("job %d: %+v", i, last)
		}
		var places []string
		for _, e := range events {
			if strings.HasPrefix(e.Message, "Waiting in the queue: ") {
				places = append(places, e.Message[len("Waiting in the queue: "):])
			}
		}
		want := [][]string{nil, {"place 1"}, {"place 2", "place 1"}}[i]
		if !slices.Equal(places, want) {
			t.Errorf("job %d reported %v, want %v", i, places, want)
		}
	}
}

func TestCancel(t *testing.T) {
	r := newRig(t, options{settings: one, play: untilStopped})
	running := r.submit(request(alice, "x"))
	r.until(running, isType("began"))
	waiting := r.submit(request(bob, "x"))
	r.until(waiting, says("place 1"))

	r.service.Cancel(waiting)
	events := r.events(waiting)
	if last, debug := r.ends(events); last.Code != string(dreamcore.FailCLITerminated) || debug.Commit != "" || len(r.specs) != 1 {
		t.Errorf("while it waited: %+v", events)
	}
	r.service.Cancel(running)
	events = r.events(running)
	if last, debug := r.ends(events); last.Code != string(dreamcore.FailCLITerminated) || *last.Exit != 143 || debug.Commit == "" {
		t.Errorf("while it ran: %+v", events)
	}
	r.service.Cancel(running) // it has ended
	r.service.Cancel("never was")
}

func TestCancelWhileAJobWaitsForItsProject(t *testing.T) {
	r := newRig(t, options{})
	unlock := must(r.parts.Volumes.TryLock(alice, project))(t)
	defer unlock()
	id := r.submit(request(alice, "x"))
	r.until(id, says("Opening the project"))
	r.service.Cancel(id)
	if last, _ := r.ends(r.events(id)); last.Code != string(dreamcore.FailCLITerminated) {
		t.Errorf("%+v", last)
	}
}

func TestCloseGivesRunningJobsTheirGrace(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, options{play: func(g guest) (int, error) {
		g.say("{\"type\":\"began\"}\n")
		<-release
		return makesGame(g)
	}})
	id := r.submit(request(alice, "x"))
	r.until(id, isType("began"))
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.service.Close(t.Context())
	}()
	// A closing service refuses jobs.
	for {
		_, err := r.service.Submit(t.Context(), request(bob, "x"), dreamcore.English)
		if err != nil && strings.Contains(err.Error(), "stopping") {
			break // before that, Bob's jobs are accepted
		}
		if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeBusy {
			t.Fatal(err)
		}
	}
	select {
	case <-closed:
		t.Fatal("it did not wait")
	default:
	}
	close(release)
	<-closed
	if last, _ := r.ends(r.events(id)); last.Type != "done" {
		t.Errorf("%+v", last)
	}
}

func TestCloseStopsJobsWhenTheGraceIsOver(t *testing.T) {
	r := newRig(t, options{settings: one, play: untilStopped})
	running := r.submit(request(alice, "x"))
	r.until(running, isType("began"))
	waiting := r.submit(request(bob, "x"))
	grace, over := context.WithCancel(t.Context())
	over()
	r.service.Close(grace)
	// Close has waited: the journal is complete.
	for _, id := range []string{running, waiting} {
		raw, err := os.ReadFile(filepath.Join(r.dir, "jobs", id+".ndjson"))
		raw = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAll(raw, nil) // the notes
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(raw)), `"recoverable":true}`) || strings.Count(string(raw), `"CLI_TERMINATED"`) != 1 {
			t.Errorf("log of a stopped job: %s %v", raw, err)
		}
	}
	if len(r.versions(alice)) != 1 {
		t.Error("the files of the stopped job are not saved")
	}
	r.service.Close(t.Context()) // may be called again
}

func TestApplyAffectsOnlyNewJobs(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, options{settings: one, play: func(g guest) (int, error) {
		g.say("{\"type\":\"began\"}\n")
		select {
		case <-release:
		case <-g.Killed:
		}
		g.say(lines(9, `{"type":"user","n":%d}`))
		return makesGame(g)
	}})
	old := r.submit(request(alice, "x"))
	r.until(old, isType("began"))
	settings := *r.service.settings.Load()
	settings.OutputLines, settings.Running = 2, 2
	r.service.Apply(settings)
	young := r.submit(request(bob, "x"))
	r.until(young, isType("began")) // there is a second slot now
	close(release)
	if events := r.events(old); count(events, isType("warning")) != 0 {
		t.Errorf("the old job: %+v", events)
	}
	if events := r.events(young); count(events, isType("warning")) != 1 || count(events, isType("user")) != 1 {
		t.Errorf("the new job: %+v", events)
	}
}

func TestManyJobsAtOnce(t *testing.T) {
	r := newRig(t, options{settings: func(s *Settings) { s.Running, s.Waiting = 3, 100 }, play: func(g guest) (int, error) {
		switch g.project()[len(g.project())-1] % 3 {
		case 0:
			return makesGame(g)
		case 1:
			return 1, nil
		}
		return untilStopped(g)
	}})
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() {
			w := request(user(n), "x")
			w.Project = dreamcore.ProjectID(fmt.Sprintf("00000000-0000-4000-8000-00000000000%x", n))
			id, err := r.service.Submit(t.Context(), w, dreamcore.English)
			if err != nil {
				t.Error(err)
				return
			}
			if n%2 == 0 {
				go r.service.Cancel(id) // at any moment
			} else if w.Project[len(w.Project)-1]%3 == 2 {
				r.until(id, isType("began"))
				r.service.Cancel(id)
			}
			r.ends(r.events(id))
		})
	}
	wg.Wait()
}

func TestRecoverEndsUnfinishedJobs(t *testing.T) {
	r := newRig(t, options{})
	dir := filepath.Join(r.dir, "jobs")
	put := func(id, content string) {
		if err := os.WriteFile(filepath.Join(dir, id+".ndjson"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const status = `{"type":"status","message":"x"}` + "\n"
	crashed, torn, empty, ended := "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222",
		"33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"
	put(crashed, status)
	put(torn, status+`{"type":"done","exit_co`)
	put(empty, "")
	put(ended, status+`{"type":"done","exit_code":0}`+"\n")
	other := must(journal.Open(dir, journal.Options{}))(t) // another process, which writes to it
	defer other.Close()
	log := must(other.Create("55555555-5555-4555-8555-555555555555"))(t)
	defer log.Close()

	for range 2 { // the second time nothing remains to be done
		if err := r.service.Recover(); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]int{crashed: 2, torn: 2, empty: 1} {
		events := r.events(id)
		if len(events) != want || events[want-1].Type != "error" || events[want-1].Code != string(dreamcore.FailCLITerminated) {
			t.Errorf("%s: %+v", id, events)
		}
	}
	if events := r.events(ended); len(events) != 2 || events[1].Type != "done" {
		t.Errorf("a job that had ended: %+v", events)
	}
	if _, err := log.Append(dreamcore.DoneEvent()); err != nil {
		t.Errorf("a job of another process: %v", err)
	}
	if n := strings.Count(r.log.String(), "left unfinished"); n != 3 {
		t.Errorf("%d jobs were logged:\n%s", n, r.log)
	}
}

func TestAFailedRecoveryNamesTheJob(t *testing.T) {
	r := newRig(t, options{})
	id := "11111111-1111-4111-8111-111111111111"
	if err := os.Mkdir(filepath.Join(r.dir, "jobs", id+".ndjson"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.service.Recover(); err != nil || !strings.Contains(r.log.String(), id) {
		t.Errorf("%v\n%s", err, r.log)
	}
}

func TestTheErrorIsInTheLanguageOfTheRequest(t *testing.T) {
	r := newRig(t, options{play: func(guest) (int, error) { return 1, nil }})
	id := must(r.service.Submit(t.Context(), request(alice, "x"), dreamcore.Japanese))(t)
	if last, _ := r.ends(r.events(id)); !strings.Contains(last.User, "。") {
		t.Errorf("the Japanese player sees %q", last.User)
	}
}

func TestAFailureOfTheJournalFreesTheSlot(t *testing.T) {
	r := newRig(t, options{settings: func(s *Settings) { s.Running, s.Waiting = 1, 0 }})
	if err := os.RemoveAll(filepath.Join(r.dir, "jobs")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.service.Submit(t.Context(), request(alice, "x"), dreamcore.English); err == nil || dreamcore.CodeOf(err) == dreamcore.CodeBusy {
			t.Errorf("%v", err)
		}
	}
}
