package job

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// final waits until the index has a job as ended, and returns its record.
func (r *rig) final(id string) dreamcore.Job {
	r.t.Helper()
	r.service.wg.Wait()
	return must(r.parts.Records.Get(id))(r.t).Job
}

func keyed(w dreamcore.GenerateRequest, key string) dreamcore.GenerateRequest {
	w.IdempotencyKey = key
	return w
}

func TestTheSameKeyMakesOneJob(t *testing.T) {
	r := resuming(t, options{play: talksUntilStopped})
	w := keyed(stays(request(alice, "x")), "key")
	ids := make([]string, 50)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i], _ = r.service.Submit(t.Context(), w, dreamcore.English) })
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] == "" || ids[0] != ids[49] {
		t.Fatalf("jobs %v", slices.Compact(ids))
	}
	id := ids[0]
	other := w
	other.Prompt = "y"
	refused := func(r *rig) {
		t.Helper()
		if _, err := r.service.Submit(t.Context(), other, dreamcore.English); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.ReasonOf(err) != ReasonKeyReused {
			t.Errorf("another request: %v", err)
		}
	}
	refused(r)
	w.RequestID = "another" // of the repetition
	r.until(id, isType("began"))
	dir := r.crashed()

	next := resuming(t, options{dir: dir})
	next.recover()
	if got := next.submit(w); got != id {
		t.Errorf("after a crash it is %s", got)
	}
	refused(next)
	if last, _ := next.ends(next.events(id)); last.Type != "done" {
		t.Errorf("%+v", last)
	}
	next.service.wg.Wait()
	if got := next.submit(w); got != id {
		t.Errorf("after its end it is %s", got)
	}
	mine := keyed(stays(request(bob, "x")), "key")
	if got := next.submit(mine); got == id {
		t.Error("another user's key is the same")
	} else {
		next.events(got)
	}
	next.service.wg.Wait()
	if err := errors.Join(next.parts.Journal.Remove(id), next.service.Reconcile(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := next.service.Get(id); dreamcore.ReasonOf(err) != record.ReasonExpired {
		t.Errorf("an expired job: %v", err)
	}
	if got := next.submit(w); got == id {
		t.Error("the key of an expired job leads to it")
	} else {
		next.events(got)
	}
}

// A disk that hangs while a job is made keeps the service from nothing else. Admit
// stands for the disk here: it is called at the same place.
func TestOtherCallsDoNotWaitForASubmission(t *testing.T) {
	var r *rig
	var first string
	ended := make(chan int)
	r = newRig(t, options{play: untilStopped, parts: func(p *Parts) {
		p.Admit = func(user dreamcore.UserID, _ dreamcore.ProjectID) error {
			if user != bob {
				return nil
			}
			if _, _, ok := r.service.State(first); !ok {
				t.Error("the other job is gone")
			}
			if _, err := r.service.List(dreamcore.JobFilter{}); err != nil {
				t.Error(err)
			}
			r.service.Attach(t.Context(), first)
			r.service.Cancel(first)
			go func() { // what has been admitted is found
				n, err := r.service.End(t.Context(), bob, "")
				if err != nil {
					t.Error(err)
				}
				ended <- n
			}()
			return nil
		}
	}})
	first = r.submit(stays(request(alice, "x")))
	r.until(first, isType("began"))
	r.submit(stays(request(bob, "x")))
	if n := <-ended; n != 1 {
		t.Errorf("ended %d jobs of a user who was blocked meanwhile", n)
	}
}

func TestARepetitionJoinsItsJobWhileTheServiceStops(t *testing.T) {
	r := resuming(t, options{play: untilStopped})
	w := keyed(stays(request(alice, "x")), "key")
	id := r.submit(w)
	r.until(id, isType("began"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.service.Close(ctx) })
	for !r.service.isClosed() {
		runtime.Gosched()
	}
	if got := r.submit(w); got != id {
		t.Errorf("the repetition got job %s", got)
	}
	if _, err := r.service.Submit(t.Context(), keyed(w, "another"), dreamcore.English); dreamcore.ReasonOf(err) != ReasonStopping {
		t.Errorf("a new job: %v", err)
	}
	cancel()
	wg.Wait()
}

// For a request that is submitted or repeated, over HTTP or on this machine.
func TestRequestsNameConfiguredWebhooksOnly(t *testing.T) {
	allowed := "https://app.example.com/x"
	r := newRig(t, options{parts: func(p *Parts) {
		p.CheckWebhook = func(address string) error {
			if address == allowed {
				return nil
			}
			return errFake
		}
	}})
	w := request(alice, "x")
	w.WebhookURL = allowed
	id := r.submit(w)
	r.final(id)
	allowed = "" // the operator has removed it
	again, lang, err := r.service.Request(id)
	if err != nil || again.WebhookURL != w.WebhookURL {
		t.Fatalf("%+v, %v", again, err)
	}
	if _, err := r.service.Submit(t.Context(), again, lang); !errors.Is(err, errFake) {
		t.Errorf("a repetition: %v", err)
	}
	none := newRig(t, options{})
	if _, err := none.service.Submit(t.Context(), w, lang); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("without webhooks: %v", err)
	}
}

func TestRecords(t *testing.T) {
	r := newRig(t, options{settings: one, play: untilStopped})
	w := request(alice, "a game")
	w.RequestID, w.CommitMessage = "r-1", "named"
	first := r.submit(w)
	r.until(first, isType("began"))
	second := r.submit(request(bob, "another"))
	events := r.until(second, says("place 1"))

	j := must(r.service.Get(first))(t)
	if j.State != dreamcore.JobRunning || j.Attempt != 1 || j.Started.IsZero() || j.RequestID != "r-1" || j.CommitMessage != "named" || j.ExitCode != nil {
		t.Errorf("a running job: %+v", j)
	}
	j = must(r.service.Get(second))(t)
	if j.State != dreamcore.JobQueued || j.Position != 1 || j.Attempt != 0 || j.LastEventID != uint64(len(events)) || j.Prompt != "another" || j.PromptBytes != 7 {
		t.Errorf("a waiting job: %+v", j)
	}
	for _, id := range []string{first, second} {
		if _, _, err := r.service.Request(id); dreamcore.CodeOf(err) != dreamcore.CodeConflict || dreamcore.ReasonOf(err) != ReasonNotEnded {
			t.Errorf("the request of a job that has not ended: %v", err)
		}
	}
	list := func(f dreamcore.JobFilter) (ids []string) {
		t.Helper()
		for _, j := range must(r.service.List(f))(t).Jobs {
			ids = append(ids, j.ID)
		}
		return ids
	}
	if got := list(dreamcore.JobFilter{}); !slices.Equal(got, []string{second, first}) {
		t.Errorf("all: %v", got)
	}
	if got := list(dreamcore.JobFilter{State: dreamcore.JobRunning}); !slices.Equal(got, []string{first}) {
		t.Errorf("running: %v", got)
	}
	r.service.Cancel(first)
	// After its last event the job has ended in every list.
	r.until(first, isType("error"))
	if got := list(dreamcore.JobFilter{State: dreamcore.JobCancelled, User: alice}); !slices.Equal(got, []string{first}) {
		t.Errorf("cancelled: %v", got)
	}
	if got := list(dreamcore.JobFilter{State: dreamcore.JobRunning, User: alice}); len(got) != 0 {
		t.Errorf("running: %v", got)
	}
	j = must(r.service.Get(first))(t)
	if j.State != dreamcore.JobCancelled || j.Code != dreamcore.FailCLITerminated || *j.ExitCode != 143 || j.Cause != errCancelled.Error() || j.Ended.IsZero() || j.Commit == "" {
		t.Errorf("a cancelled job: %+v", j)
	}
	page := must(r.service.List(dreamcore.JobFilter{Limit: 1}))(t)
	if len(page.Jobs) != 1 || page.Jobs[0].ID != second || page.Next == "" {
		t.Errorf("%+v", page)
	}
	page = must(r.service.List(dreamcore.JobFilter{Limit: 1, Cursor: page.Next}))(t)
	if len(page.Jobs) != 1 || page.Jobs[0].ID != first || page.Next != "" {
		t.Errorf("%+v", page)
	}
	got, _, err := r.service.Request(first)
	if w.RequestID = "r-1"; err != nil || got != w {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.service.Erase(t.Context(), bob, ""); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("erase a job that runs: %v", err)
	}
	if n, err := r.service.End(t.Context(), bob, project); n != 1 || err != nil {
		t.Errorf("ended %d: %v", n, err)
	}
	if n, err := r.service.Erase(t.Context(), bob, ""); n != 1 || err != nil {
		t.Errorf("erased %d: %v", n, err)
	}
	if _, err := r.service.Get(second); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || dreamcore.ReasonOf(err) == record.ReasonExpired {
		t.Errorf("an erased job: %v", err)
	}
}

// Better no job than a second one: while the index is made again, a key may be used.
func TestAKeyIsNotTakenForNewWhileTheIndexIsMadeAgain(t *testing.T) {
	r := resuming(t, options{})
	w := keyed(stays(request(alice, "x")), "key")
	id := r.submit(w)
	r.final(id)
	r.close()
	if err := os.Remove(filepath.Join(r.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	next := resuming(t, options{dir: r.dir})
	next.recover()
	if got, err := next.service.Submit(t.Context(), w, dreamcore.English); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("job %s, %v", got, err)
	}
	if err := next.service.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := next.submit(w); got != id {
		t.Errorf("job %s, not %s", got, id)
	}
	next.events(next.submit(keyed(w, "another")))
}

func TestALostIndexIsMadeAgain(t *testing.T) {
	r := resuming(t, options{play: func(g guest) (int, error) {
		if g.arg("--resume") == "" {
			g.say("{\"type\":\"began\"}\n")
		}
		return makesGame(g)
	}})
	var want []dreamcore.Job
	for range 3 {
		want = append(want, r.final(r.submit(request(alice, "x"))))
	}
	r.playing(untilStopped)
	left := r.submit(stays(request(bob, "left")))
	r.until(left, isType("began"))
	r.close()
	if err := os.Remove(filepath.Join(r.dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	next := resuming(t, options{dir: r.dir})
	next.recover()
	if last, _ := next.ends(next.events(left)); last.Type != "done" {
		t.Errorf("%+v", last)
	}
	next.service.wg.Wait()
	for range 2 {
		if err := next.service.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if next.parts.Records.Fresh() {
		t.Error("the index is not complete")
	}
	page := must(next.service.List(dreamcore.JobFilter{User: alice}))(t)
	slices.Reverse(page.Jobs)
	for i, j := range page.Jobs {
		w := want[i]
		if j.ID != w.ID || j.State != w.State || !j.Created.Equal(w.Created) || !j.Ended.Equal(w.Ended) || j.Commit != w.Commit || j.LastEventID != w.LastEventID || j.Attempt != 1 || *j.ExitCode != 0 {
			t.Errorf("%+v, before %+v", j, w)
		}
	}
	if len(page.Jobs) != 3 {
		t.Errorf("%d records", len(page.Jobs))
	}
}

func TestARecordGoesWithItsLog(t *testing.T) {
	var store *record.Store
	r := newRig(t, options{
		journal: journal.Options{Removed: func(jobs []string) {
			if err := store.Expire(jobs...); err != nil {
				t.Error(err)
			}
		}},
		parts: func(p *Parts) { store = p.Records },
	})
	read, other := r.submit(request(alice, "x")), r.submit(request(bob, "x"))
	later := r.final(read).Ended.AddDate(1, 0, 0)
	r.final(other)
	reader := must(r.parts.Journal.Reader(read, 0))(t)
	must(r.parts.Journal.Prune(t.Context(), later, 0))(t)
	if _, err := r.service.Get(read); err != nil {
		t.Errorf("a job that is being read: %v", err)
	}
	if _, err := r.service.Get(other); dreamcore.ReasonOf(err) != record.ReasonExpired {
		t.Errorf("the other one: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	must(r.parts.Journal.Prune(t.Context(), later, 0))(t)
	if page := must(r.service.List(dreamcore.JobFilter{}))(t); len(page.Jobs) != 0 {
		t.Errorf("%+v", page)
	}
}
