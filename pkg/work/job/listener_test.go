package job

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// listed is a service of which only the list of jobs is used.
type listed struct {
	*Service
	t    *testing.T
	logs *journal.Store
}

func newListed(t *testing.T, running int) listed {
	logs := must(journal.Open(t.TempDir(), journal.Options{}))(t)
	t.Cleanup(func() {
		if err := logs.Close(); err != nil {
			t.Error(err)
		}
	})
	return listed{&Service{
		admission: queueOf(running, 10, 3), jobs: map[string]*liveJob{}, log: slog.New(slog.DiscardHandler),
	}, t, logs}
}

// begin adds a job that does nothing, with one listener. The context ends when
// the job is cancelled.
func (o listed) begin(listener context.Context, id string, user dreamcore.UserID, change ...func(*liveJob)) context.Context {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	t := must(o.admission.enter(user))(o.t)
	o.replace(user)
	run, stop := context.WithCancelCause(context.Background())
	log := must(o.logs.Create(uuid.NewString()))(o.t)
	l := &liveJob{id: id, user: user, slot: t, stop: stop, log: log, done: make(chan struct{}), grace: 10 * time.Second}
	for _, f := range change {
		f(l)
	}
	o.jobs[id] = l
	o.listen(listener, l)
	return run
}

func (o listed) wants(run context.Context, want error) {
	o.t.Helper()
	synctest.Wait()
	if got := context.Cause(run); !errors.Is(got, want) {
		o.t.Errorf("the job was cancelled because %v, want %v", got, want)
	}
}

func TestAJobWithoutListenersIsCancelledAfterItsGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newListed(t, 5)
		one, leaveOne := context.WithCancel(t.Context())
		two, leaveTwo := context.WithCancel(t.Context())
		job := o.begin(one, "a", alice)
		o.Attach(two, "a")
		leaveOne()
		time.Sleep(time.Hour)
		o.wants(job, nil) // it has a listener
		leaveTwo()
		time.Sleep(9 * time.Second)
		o.wants(job, nil)

		// A listener comes back, and the grace begins again when it leaves.
		three, leaveThree := context.WithCancel(t.Context())
		o.Attach(three, "a")
		time.Sleep(time.Hour)
		o.wants(job, nil)
		leaveThree()
		time.Sleep(9 * time.Second)
		o.wants(job, nil)
		time.Sleep(time.Second)
		o.wants(job, errAbandoned)
		if state, cancelled, ok := o.State("a"); state != dreamcore.JobRunning || !cancelled || !ok {
			t.Errorf("until it has ended its state is %q, %v, %v", state, cancelled, ok)
		}
		o.Attach(t.Context(), "a") // too late, but not an error
		o.forget(o.jobs["a"])
		o.Attach(t.Context(), "a")
		o.Cancel("a")
		if _, _, ok := o.State("a"); ok {
			t.Error("a job that has ended is still there")
		}
	})
}

func TestAJobWhoseClientLeftBeforeItCouldRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newListed(t, 5)
		gone, leave := context.WithCancel(t.Context())
		leave()
		job := o.begin(gone, "a", alice)
		time.Sleep(10 * time.Second)
		o.wants(job, errAbandoned)
	})
}

func TestAJobThatWaitsIsCancelledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newListed(t, 1)
		running := o.begin(t.Context(), "a", alice)
		client, leave := context.WithCancel(t.Context())
		waiting := o.begin(client, "b", bob)
		leave()
		o.wants(waiting, errAbandoned)
		o.wants(running, nil)
		if o.admission.waiting != 0 {
			t.Error("it is still in the queue")
		}
		o.jobs["a"].slot.leave()
		if isIn(o.jobs["b"].slot) {
			t.Error("it was admitted")
		}
	})
}

func TestAskingForAnotherGameCancelsTheAbandonedOneAtOnce(t *testing.T) {
	for name, leaveFirst := range map[string]bool{"left before the request": true, "left after the request": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newListed(t, 5)
				client, leave := context.WithCancel(t.Context())
				old := o.begin(client, "a", alice)
				if leaveFirst {
					leave()
					o.wants(old, nil)
				}
				next := o.begin(t.Context(), "b", alice)
				leave()
				o.wants(old, errReplaced)
				o.wants(next, nil)
			})
		})
	}
}

func TestAJobWithAListenerIsNotReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newListed(t, 5)
		old := o.begin(t.Context(), "a", alice)
		client, leave := context.WithCancel(t.Context())
		next := o.begin(client, "b", alice)
		o.begin(t.Context(), "c", bob)
		o.wants(old, nil)
		leave()
		o.wants(next, errAbandoned)
		o.wants(old, nil)
	})
}

func TestARefusedRequestReplacesNoJob(t *testing.T) {
	r := newRig(t, options{play: untilStopped, settings: func(s *Settings) { s.Running, s.Waiting = 1, 0 }})
	client, leave := context.WithCancel(t.Context())
	id := must(r.service.Submit(client, request(alice, "x"), dreamcore.English))(t)
	leave()
	abandoned := func() bool {
		r.service.mu.Lock()
		defer r.service.mu.Unlock()
		return r.service.jobs[id].listeners == 0
	}
	for !abandoned() {
		runtime.Gosched()
	}
	if _, err := r.service.Submit(t.Context(), request(alice, "y"), dreamcore.English); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("with a full queue: %v", err)
	}
	if _, cancelled, ok := r.service.State(id); cancelled || !ok {
		t.Error("the running job was cancelled for a refused one")
	}
	r.service.Cancel(id)
	r.events(id)
}

func TestJobsThatRunOnWithoutListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newListed(t, 1)
		runOn := func(l *liveJob) { l.runOn = true }
		client, leave := context.WithCancel(t.Context())
		running, waiting := o.begin(client, "a", alice, runOn), o.begin(client, "b", bob, runOn)
		leave()
		o.begin(t.Context(), "c", alice)
		time.Sleep(time.Hour)
		o.wants(running, nil)
		o.wants(waiting, nil)
		o.Cancel("a")
		o.Cancel("a")
		o.wants(running, errCancelled)
	})
}

func TestAGraceOfZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newListed(t, 1)
		client, leave := context.WithCancel(t.Context())
		job := o.begin(client, "a", alice, func(l *liveJob) { l.grace = 0 })
		leave()
		o.wants(job, errAbandoned)
	})
}

func TestAStoppingServiceKeepsJobsWithoutListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newListed(t, 1)
		client, leave := context.WithCancel(t.Context())
		gone, leaveBefore := context.WithCancel(t.Context())
		running, waiting := o.begin(gone, "a", alice), o.begin(client, "b", bob)
		leaveBefore()
		synctest.Wait()
		o.mu.Lock()
		o.closed = true
		o.mu.Unlock()
		leave()
		time.Sleep(time.Hour)
		o.wants(running, nil)
		o.wants(waiting, nil)
	})
}

func TestDetachAndTheSettingKeepAJobRunning(t *testing.T) {
	for name, tt := range map[string]struct {
		detach, setting, want bool
	}{"neither": {false, false, false}, "in the request": {true, false, true}, "the setting": {false, true, true}} {
		t.Run(name, func(t *testing.T) {
			release := make(chan struct{})
			r := newRig(t, options{settings: func(s *Settings) { s.RunOn, s.DisconnectGrace = tt.setting, time.Nanosecond }, play: func(g guest) (int, error) {
				g.say("{\"type\":\"began\"}\n")
				select {
				case <-release:
				case <-g.Killed:
				}
				return makesGame(g)
			}})
			w := request(alice, "x")
			w.Detach = tt.detach
			client, leave := context.WithCancel(t.Context())
			id := must(r.service.Submit(client, w, dreamcore.English))(t)
			r.until(id, isType("began"))
			leave()
			if !tt.want {
				r.events(id)
			}
			close(release)
			if last, _ := r.ends(r.events(id)); (last.Type == "done") != tt.want {
				t.Errorf("it ended with %+v", last)
			}
		})
	}
}

// TestACancelledJobSpendsNothingMore has an agent that ignores SIGTERM. Its token is
// revoked and its request is cut nevertheless.
func TestACancelledJobSpendsNothingMore(t *testing.T) {
	asked, cut := make(chan struct{}), make(chan struct{})
	var requests atomic.Int64
	upstream := upstreamFunc(func(ctx context.Context, _ gateway.Call) (*gateway.Answer, error) {
		requests.Add(1)
		close(asked)
		<-ctx.Done()
		close(cut)
		return nil, context.Cause(ctx)
	})
	var again atomic.Int64
	r := newRig(t, options{upstream: upstream, play: func(g guest) (int, error) {
		if err := g.write("half.js", "half"); err != nil {
			return 0, err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _, _ = g.ask(question)
		}()
		<-done // it is cut before the agent ends
		status, _, _ := g.ask(question)
		again.Store(int64(status))
		<-g.Signals
		return 143, nil
	}})
	id := r.submit(request(alice, "x"))
	<-asked
	r.service.Cancel(id)
	<-cut
	last, debug := r.ends(r.events(id))
	if last.Code != string(dreamcore.FailCLITerminated) || *last.Exit != 143 || debug.Commit == "" {
		t.Errorf("%+v, %+v", last, debug)
	}
	if requests.Load() != 1 || again.Load() != 401 {
		t.Errorf("%d requests went out, the second was answered with %d", requests.Load(), again.Load())
	}
}

// upstreamFunc plays a model API.
type upstreamFunc func(context.Context, gateway.Call) (*gateway.Answer, error)

func (f upstreamFunc) Send(ctx context.Context, c gateway.Call) (*gateway.Answer, error) {
	return f(ctx, c)
}

// TestAHundredAborts abandons jobs at random moments, and requests another game at
// once. Afterwards no job runs and nothing is reserved or leased: the rig checks the
// slots and the sandboxes, TestMain the goroutines.
func TestAHundredAborts(t *testing.T) {
	const users, aborts = 4, 25
	var working atomic.Int64
	dir := t.TempDir()
	ledger := openLedger(t, dir, usage.Limits{})
	upstream := upstreamFunc(func(ctx context.Context, _ gateway.Call) (*gateway.Answer, error) {
		working.Add(1)
		defer working.Add(-1)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	r := newRig(t, options{upstream: upstream, parts: func(p *Parts) { p.Ledger = ledger }, settings: func(s *Settings) {
		s.Running, s.Waiting, s.DisconnectGrace = 2, 100, time.Millisecond
	}, play: func(g guest) (int, error) {
		g.say("{\"type\":\"asks\"}\n")
		_, _, _ = g.ask(question) // until the job is cancelled
		return untilStopped(g)
	}})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var ids []string
	for u := range users {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(u), 3))
			for range aborts {
				client, leave := context.WithCancel(t.Context())
				id, err := r.service.Submit(client, request(user(u), "x"), dreamcore.English)
				for err != nil && dreamcore.CodeOf(err) == dreamcore.CodeBusy { // the service notices a moment later that a client has left
					time.Sleep(time.Millisecond)
					id, err = r.service.Submit(client, request(user(u), "x"), dreamcore.English)
				}
				if err != nil {
					t.Error(err)
					leave()
					return
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
				switch rng.IntN(3) {
				case 0:
					r.until(id, isType("asks"))
				case 1:
					time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond) // a random moment
				}
				if rng.IntN(4) == 0 {
					go r.service.Cancel(id)
				}
				leave()
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		events := r.events(id)
		if last := events[len(events)-1]; last.Code != string(dreamcore.FailCLITerminated) {
			t.Errorf("job %s ended with %+v", id, last)
		}
	}
	r.service.wg.Wait()
	if n := working.Load(); n != 0 {
		t.Errorf("%d requests are still with the model", n)
	}
	for u := range users {
		nothingIsReserved(t, ledger, dir, user(u))
	}
	if logs, _ := filepath.Glob(filepath.Join(r.dir, "jobs", "*")); len(logs) != users*aborts {
		t.Errorf("%d logs", len(logs))
	}
}

// nothingIsReserved checks that a user whose budget is one token more than the spent
// ones may ask the model: a remaining reservation would prevent that.
func nothingIsReserved(t *testing.T, ledger *usage.Ledger, dir string, user dreamcore.UserID) {
	t.Helper()
	var spent int64
	err := usage.Read(dir, time.Time{}, func(r usage.Record) {
		if r.User == string(user) {
			spent += r.Input + r.Output + r.CacheWrite + r.CacheWrite1h + r.CacheRead
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ledger.Apply(usage.Prices{}, usage.Limits{UserDayTokens: spent + 1})
	settle, err := ledger.Job(string(user), string(project), "another").Reserve("m", 1, 1)
	if err != nil {
		t.Errorf("%d tokens are spent, and more are reserved: %v", spent, err)
		return
	}
	settle(dreamcore.Spent{}, true)
}
