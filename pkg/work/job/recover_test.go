package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// resuming is a rig whose jobs outlive it.
func resuming(t *testing.T, o options) *rig {
	t.Helper()
	parts, settings := o.parts, o.settings
	o.parts = func(p *Parts) {
		p.Resume = true
		if logs := must(p.Journal.Jobs())(t); p.Records.Fresh() && len(logs) == 0 { // as in the service
			if err := p.Records.Complete(); err != nil {
				t.Fatal(err)
			}
		}
		if parts != nil {
			parts(p)
		}
	}
	o.settings = func(s *Settings) {
		s.Attempts = 2
		if settings != nil {
			settings(s)
		}
	}
	return newRig(t, o)
}

// crashed returns what a crash would leave at this moment: a copy of the state.
func (r *rig) crashed() (dir string) {
	r.t.Helper()
	dir = filepath.Join(r.t.TempDir(), "state")
	if out, err := exec.Command("cp", "-a", r.dir, dir).CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(dir, "sockets")); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

func (r *rig) recover() {
	r.t.Helper()
	if err := r.service.Recover(); err != nil {
		r.t.Fatal(err)
	}
}

// stays makes a job run on without listeners.
func stays(w dreamcore.GenerateRequest) dreamcore.GenerateRequest {
	w.Detach = true
	return w
}

// asked collects the prompts that the agent is given.
type asked struct {
	mu      sync.Mutex
	prompts []string
}

func (a *asked) note(g guest) string {
	prompt, err := g.prompt()
	if err != nil {
		return err.Error()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.prompts = append(a.prompts, prompt)
	return prompt
}

func (a *asked) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.prompts)
}

// talksUntilStopped keeps its conversation like the CLI, gets an answer, and works
// until it is stopped.
func talksUntilStopped(g guest) (int, error) {
	if id := g.arg("--session-id"); id != "" {
		file := filepath.Join(g.home(), agent.SessionFile(g.Dir, id))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("{}\n"), 0o600)); err != nil {
			return 0, err
		}
	}
	g.say(`{"type":"assistant","message":{"id":"1"}}` + "\n")
	return untilStopped(g)
}

func TestAJobThatIsCutGoesOnInTheNextProcess(t *testing.T) {
	for name, cut := range map[string]func(*rig) (dir string){
		"crash": (*rig).crashed,
		"stop": func(r *rig) string {
			r.close()
			return r.dir
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := resuming(t, options{play: talksUntilStopped})
			id := r.submit(request(alice, "a snake"))
			before := r.until(id, isType("began"))
			dir := cut(r)

			var prompts asked
			var resumed []string
			ended := make(chan dreamcore.Job, 1)
			next := resuming(t, options{dir: dir, play: func(g guest) (int, error) {
				prompts.note(g)
				resumed = append(resumed, g.arg("--resume"))
				if _, err := os.Stat(filepath.Join(g.project(), "half.js")); err != nil {
					return 0, err
				}
				return makesGame(g)
			}, parts: func(p *Parts) { p.Ended = func(j dreamcore.Job) { ended <- j } }})
			next.recover()
			events := next.events(id)
			if last, _ := next.ends(events); last.Type != "done" {
				t.Fatalf("%+v\n%s", events, next.log)
			}
			if len(events) <= len(before) || !slices.ContainsFunc(events[len(before):], says("The service was restarted")) {
				t.Errorf("the player is not told: %+v", events)
			}
			if got := prompts.list(); len(got) != 1 || !strings.Contains(got[0], interrupted) || strings.Contains(got[0], "a snake") || resumed[0] == "" {
				t.Errorf("the agent is asked %q in conversation %q", got, resumed)
			}
			if versions := next.versions(alice); len(versions) != 1 || versions[0] != "a snake" {
				t.Errorf("versions %q", versions)
			}
			j := <-ended
			if got, err := next.service.Get(id); err != nil || got.State != dreamcore.JobSucceeded || got.Attempt != 2 || got.Commit == "" ||
				got.LastEventID != uint64(len(events)) || got.Started.IsZero() || j.ID != id || j.State != got.State {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// The stream of a job that a stop cuts ends without a terminal event, and with the
// next id in the next process.
func TestAStopEndsNoJob(t *testing.T) {
	r := resuming(t, options{play: untilStopped, settings: one})
	ids := []string{r.submit(request(alice, "runs")), r.submit(request(bob, "waits"))}
	r.until(ids[0], isType("began"))
	r.until(ids[1], says("place 1"))
	var readers []*journal.Reader
	for _, id := range ids {
		readers = append(readers, must(r.parts.Journal.Reader(id, 0))(t))
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	r.service.Close(now)
	for i, id := range ids {
		for _, reader := range []*journal.Reader{readers[i], must(r.parts.Journal.Reader(id, 0))(t)} {
			var last error
			for e, err := range reader.Follow(t.Context()) {
				if last = err; err == nil && e.Terminal() {
					t.Errorf("job %d has ended: %s", i, e.Event)
				}
			}
			if err := reader.Close(); !errors.Is(last, journal.ErrSuspended) || err != nil {
				t.Errorf("job %d: %v, %v", i, last, err)
			}
		}
	}
	if _, err := r.service.Submit(t.Context(), request(alice, "x"), dreamcore.English); dreamcore.ReasonOf(err) != ReasonStopping {
		t.Errorf("a stopping service: %v", err)
	}
	if versions := r.versions(alice); len(versions) != 0 {
		t.Errorf("versions %q of what is not finished", versions)
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name     string
		attempts int
		crash    bool
		want     int // attempts that begin
	}{
		{"stops", 3, false, 3},
		{"crashes", 3, true, 2},
		{"one attempt", 1, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options{play: untilStopped, settings: func(s *Settings) { s.Attempts = c.attempts }}
			r := resuming(t, o)
			id := r.submit(stays(request(alice, "x")))
			for n := 1; n <= c.want; n++ {
				began := 0
				r.until(id, func(e event) bool {
					if e.Type == "began" {
						began++
					}
					return began == n
				})
				if c.crash {
					o.dir = r.crashed()
				} else {
					r.close()
					o.dir = r.dir
				}
				r = resuming(t, o)
				r.recover()
			}
			events := r.events(id)
			if last := events[len(events)-1]; last.Code != string(dreamcore.FailSandboxLost) || count(events, isType("error")) != 1 {
				t.Errorf("%+v", events)
			}
			j := must(r.service.Get(id))(t)
			if j.State != dreamcore.JobFailed || j.Attempt != c.want || j.Cause == "" || j.Ended.IsZero() {
				t.Errorf("%+v", j)
			}
		})
	}
}

// queueOrder submits jobs of users, as the letters say, to a service that runs one,
// and returns the service and the ids by prompt.
func queueOrder(t *testing.T, letters string) (*rig, map[string]string) {
	t.Helper()
	r := resuming(t, options{play: untilStopped, settings: func(s *Settings) { s.Running, s.Waiting, s.PerUser = 1, 20, 10 }})
	ids, counts := map[string]string{}, map[rune]int{}
	for i, l := range letters {
		counts[l]++
		prompt := fmt.Sprintf("%c%d", l, counts[l])
		ids[prompt] = r.submit(stays(request(user(int(l-'a')), prompt)))
		if i == 0 {
			r.until(ids[prompt], isType("began"))
		}
	}
	return r, ids
}

func TestJobsThatWaitKeepTheirPlaces(t *testing.T) {
	for _, c := range []struct {
		letters string
		cancel  []string // jobs that end before the restart, in this order
		want    string
	}{
		{"aaabcb", nil, "a1 a2 b1 c1 a3 b2"},
		// a2 was admitted after b1 came: a3 is behind b1.
		{"aaab", []string{"a1"}, "a2 b1 a3"},
		{"aabbcc", []string{"a1", "a2"}, "b1 c1 b2 c2"},
		{"abcabcabc", []string{"a1", "b1"}, "c1 a2 b2 c2 a3 b3 c3"},
	} {
		for _, how := range []string{"crash", "stop"} {
			t.Run(c.letters+" "+how, func(t *testing.T) {
				r, ids := queueOrder(t, c.letters)
				for _, prompt := range c.cancel {
					r.service.Cancel(ids[prompt])
					r.events(ids[prompt])
				}
				first, _, _ := strings.Cut(c.want, " ")
				r.until(ids[first], isType("began"))
				want := places(t, r, ids)
				dir := r.dir
				if how == "crash" {
					dir = r.crashed()
				} else {
					r.close()
				}
				var mu sync.Mutex
				var order []string
				hold := make(chan struct{})
				next := resuming(t, options{dir: dir, play: func(g guest) (int, error) {
					prompt, err := g.prompt()
					if err != nil {
						return 0, err
					}
					mu.Lock()
					order = append(order, prompt[len(prompt)-2:])
					mu.Unlock()
					<-hold
					return makesGame(g)
				}, settings: func(s *Settings) { s.Running, s.Waiting, s.PerUser = 1, 1, 0 }})
				next.recover()
				next.recover() // changes nothing
				if got := places(t, next, ids); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("places %v, before the restart %v", got, want)
				}
				close(hold)
				for prompt, id := range ids {
					if slices.Contains(c.cancel, prompt) {
						continue
					}
					if last, _ := next.ends(next.events(id)); last.Type != "done" {
						t.Errorf("%s: %+v", prompt, last)
					}
				}
				if got := strings.Join(order, " "); got != c.want {
					t.Errorf("order %q, want %q", got, c.want)
				}
			})
		}
	}
}

// places returns the places of the jobs that wait, by prompt.
func places(t *testing.T, r *rig, ids map[string]string) map[string]int {
	t.Helper()
	got := map[string]int{}
	for prompt, id := range ids {
		if j := must(r.service.Get(id))(t); j.Position > 0 {
			got[prompt] = j.Position
		}
	}
	return got
}

func TestACancelOutlivesACrash(t *testing.T) {
	stubborn := make(chan struct{})
	r := resuming(t, options{settings: one, play: func(g guest) (int, error) {
		g.say("{\"type\":\"began\"}\n")
		<-stubborn
		return 143, nil
	}})
	running, waiting := r.submit(stays(request(alice, "x"))), r.submit(stays(request(bob, "x")))
	r.until(running, isType("began"))
	for range 3 {
		r.service.Cancel(running)
	}
	dir := r.crashed()                                                                      // the agent has not ended yet
	if account := must(r.parts.Journal.Account(running, nil))(t); len(account.Notes) != 4 { // job, attempt, run, cancel
		t.Errorf("a repeated request fills the log: %q", account.Notes)
	}
	close(stubborn)
	r.events(running)
	r.until(waiting, isType("began"))

	next := resuming(t, options{dir: dir})
	next.recover()
	events := next.events(running)
	if last := events[len(events)-1]; last.Code != string(dreamcore.FailCLITerminated) {
		t.Errorf("%+v", events)
	}
	if j := must(next.service.Get(running))(t); j.State != dreamcore.JobCancelled || j.Cause != errCancelled.Error() {
		t.Errorf("%+v", j)
	}
	if last, _ := next.ends(next.events(waiting)); last.Type != "done" {
		t.Errorf("the other one: %+v", last)
	}
}

func TestAJobCanBeCancelledWhileTheServiceStops(t *testing.T) {
	r := resuming(t, options{settings: one, play: untilStopped})
	running, waiting := r.submit(stays(request(alice, "x"))), r.submit(stays(request(bob, "x")))
	r.until(running, isType("began"))
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.service.Close(t.Context())
	}()
	reader := must(r.parts.Journal.Reader(waiting, 0))(t)
	for range reader.Follow(t.Context()) { // until it is suspended
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	r.service.Cancel(waiting)
	r.service.Cancel(running)
	<-closed
	if last, _ := r.ends(r.events(running)); last.Code != string(dreamcore.FailCLITerminated) {
		t.Errorf("the running one: %+v", last)
	}
	r.close()
	next := resuming(t, options{dir: r.dir})
	next.recover()
	if j := must(next.service.Get(waiting))(t); j.State != dreamcore.JobCancelled {
		t.Errorf("the waiting one: %+v", j)
	}
}

func TestListenersHaveAGraceAfterARestart(t *testing.T) {
	r := resuming(t, options{play: untilStopped, settings: func(s *Settings) { s.Running = 3 }})
	gone, back, detached := r.submit(request(user(1), "x")), r.submit(request(user(2), "x")), r.submit(stays(request(user(3), "x")))
	for _, id := range []string{gone, back, detached} {
		r.until(id, isType("began"))
	}
	r.close()
	release := make(chan struct{})
	next := resuming(t, options{dir: r.dir, play: func(g guest) (int, error) {
		g.say("{\"type\":\"again\"}\n")
		select {
		case <-release:
			return makesGame(g)
		case <-g.Signals:
			return 143, nil
		}
	}, settings: func(s *Settings) { s.Running, s.DisconnectGrace = 3, 0 }})
	next.service.back = time.Second
	next.recover()
	next.service.Attach(t.Context(), back)
	if events := next.events(gone); events[len(events)-1].Code != string(dreamcore.FailCLITerminated) {
		t.Errorf("without a listener: %+v", events)
	}
	close(release)
	for _, id := range []string{back, detached} {
		if last, _ := next.ends(next.events(id)); last.Type != "done" {
			t.Errorf("%+v\n%s", last, next.log)
		}
	}
}

// The player's clients come back one after another: the first one must not cancel the
// jobs that the others follow.
func TestANewJobDoesNotReplaceOnesWhoseListenersAreOnTheirWayBack(t *testing.T) {
	r := resuming(t, options{play: untilStopped, settings: one})
	ids := []string{r.submit(request(alice, "x")), r.submit(request(alice, "x"))}
	r.until(ids[0], isType("began"))
	r.until(ids[1], says("place 1"))
	r.close()
	hold := make(chan struct{})
	next := resuming(t, options{dir: r.dir, settings: one, play: func(g guest) (int, error) {
		g.say("{\"type\":\"again\"}\n")
		select {
		case <-hold:
			return makesGame(g)
		case <-g.Signals:
			return 143, nil
		}
	}})
	next.recover()
	third := next.submit(request(alice, "x"))
	for _, id := range ids {
		if _, cancelled, ok := next.service.State(id); cancelled || !ok {
			t.Errorf("job %s is cancelled", id)
		}
	}
	// A listener that has been back and leaves is gone, as always.
	gone, leave := context.WithCancel(t.Context())
	next.service.Attach(gone, ids[0])
	next.service.Attach(t.Context(), ids[1])
	leave()
	if last, _ := next.ends(next.events(ids[0])); last.Code != string(dreamcore.FailCLITerminated) {
		t.Errorf("the job of the listener that has left: %+v", last)
	}
	close(hold)
	for _, id := range []string{ids[1], third} {
		if last, _ := next.ends(next.events(id)); last.Type != "done" {
			t.Errorf("%+v\n%s", last, next.log)
		}
	}
}

// An agent must not get more of either with a second attempt, nor hide its answers from
// the count behind the bound of its output.

// A process can end after each step of a job.
func TestAnEndThatWasNotRecordedIsRecorded(t *testing.T) {
	r := resuming(t, options{})
	id := r.submit(request(alice, "x"))
	r.events(id)
	want := r.final(id)
	row := must(r.parts.Records.Get(id))(t)
	row.State = dreamcore.JobRunning
	lost, unborn := row, row // the row of a log that was never made, and of one without a request
	lost.ID, unborn.ID = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	log := must(r.parts.Journal.Create(unborn.ID))(t)
	if err := errors.Join(log.Close(), r.parts.Records.Put(row, lost, unborn)); err != nil {
		t.Fatal(err)
	}
	if err := r.parts.Records.Complete(); err != nil {
		t.Fatal(err)
	}
	r.close()
	var ended []string
	next := resuming(t, options{dir: r.dir, parts: func(p *Parts) { p.Ended = func(j dreamcore.Job) { ended = append(ended, j.ID) } }})
	next.recover()
	if got := must(next.service.Get(id))(t); !bytes.Equal(must(json.Marshal(got))(t), must(json.Marshal(want))(t)) || !slices.Equal(ended, []string{id}) {
		t.Errorf("%+v, want %+v; %v", got, want, ended)
	}
	for _, gone := range []string{lost.ID, unborn.ID} {
		if _, err := next.service.Get(gone); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || dreamcore.ReasonOf(err) == record.ReasonExpired {
			t.Errorf("job %s: %v", gone, err)
		}
	}
	next.recover()
	if len(ended) != 1 {
		t.Errorf("reported again: %v", ended)
	}
}
