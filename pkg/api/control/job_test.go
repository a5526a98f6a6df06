package control

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// fakeJobs is a service with one job, which ends when it is cancelled.
type fakeJobs struct {
	job       dreamcore.Job
	filter    dreamcore.JobFilter
	submitted []dreamcore.GenerateRequest
}

const (
	job1       = "11111111-0000-4000-8000-000000000001"
	job2       = "22222222-0000-4000-8000-000000000002"
	jobUser    = "a11ce000-0000-4000-8000-000000000001"
	jobProject = "b0b00000-0000-4000-8000-000000000002"
)

func (f *fakeJobs) List(filter dreamcore.JobFilter) (dreamcore.JobPage, error) {
	f.filter = filter
	return dreamcore.JobPage{Jobs: []dreamcore.Job{f.job}, Next: "more"}, nil
}

func (f *fakeJobs) Get(id string) (dreamcore.Job, error) {
	if id != f.job.ID {
		return dreamcore.Job{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: "test.unknown", Message: "Job not found", Hint: "check the id"}
	}
	return f.job, nil
}

func (f *fakeJobs) Request(id string) (dreamcore.GenerateRequest, dreamcore.Language, error) {
	j, err := f.Get(id)
	return dreamcore.GenerateRequest{User: j.User, Project: j.Project, Prompt: "the whole prompt", IdempotencyKey: "key"}, dreamcore.Japanese, err
}

func (f *fakeJobs) Submit(_ context.Context, r dreamcore.GenerateRequest, _ dreamcore.Language) (string, error) {
	f.submitted = append(f.submitted, r)
	return job2, nil
}

func (f *fakeJobs) Cancel(string) error {
	f.job.State = dreamcore.JobCancelled
	return nil
}

func openWithJobs(t *testing.T) (*Client, *fakeJobs, *journal.Store) {
	t.Helper()
	dir := t.TempDir()
	j, err := journal.Open(filepath.Join(dir, "jobs"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeJobs{job: dreamcore.Job{ID: job1, User: jobUser, Project: jobProject, Prompt: "a game", State: dreamcore.JobRunning, Created: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}}
	s, err := Listen(dir, Parts{Sandboxes: &fakeSandboxes{}, Jobs: f, Journal: j}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		if err := errors.Join(s.Close(), j.Close()); err != nil {
			t.Error(err)
		}
	})
	return c, f, j
}

func TestJobsAreListedShownCancelledAndRepeated(t *testing.T) {
	c, f, _ := openWithJobs(t)
	filter := dreamcore.JobFilter{User: jobUser, Project: jobProject, State: dreamcore.JobFailed, Since: time.Unix(1, 5).UTC(), Until: time.Unix(9, 0).UTC(), Limit: 7, Cursor: "c"}
	page, err := c.ListJobs(t.Context(), filter)
	if err != nil || len(page.Jobs) != 1 || page.Jobs[0] != f.job || page.Next != "more" {
		t.Errorf("%+v, %v", page, err)
	}
	if !reflect.DeepEqual(f.filter, filter) {
		t.Errorf("filter %+v, want %+v", f.filter, filter)
	}
	if j, err := c.Job(t.Context(), job1); err != nil || j != f.job {
		t.Errorf("%+v, %v", j, err)
	}
	id, err := c.RetryJob(t.Context(), job1)
	if err != nil || id != job2 || len(f.submitted) != 1 {
		t.Fatalf("%s, %v", id, err)
	}
	if r := f.submitted[0]; r.Prompt != "the whole prompt" || !r.Detach || r.IdempotencyKey != "" {
		t.Errorf("the new request: %+v", r)
	}
	if j, err := c.CancelJob(t.Context(), job1); err != nil || j.State != dreamcore.JobCancelled {
		t.Errorf("%+v, %v", j, err)
	}
	if _, err := c.SubmitJob(t.Context(), dreamcore.Request{UserID: jobUser, ProjectID: jobProject, Prompt: "another"}, dreamcore.English); err != nil || len(f.submitted) != 2 || !f.submitted[1].Detach {
		t.Errorf("%+v, %v", f.submitted, err)
	}
	if _, err := c.SubmitJob(t.Context(), dreamcore.Request{UserID: "me", ProjectID: jobProject, Prompt: "x"}, ""); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("an invalid user: %v", err)
	}
	_, unknown := c.Job(t.Context(), job2)
	_, cancelled := c.CancelJob(t.Context(), job2)
	_, repeated := c.RetryJob(t.Context(), "../"+job1)
	for _, err := range []error{unknown, cancelled, repeated, c.JobEvents(t.Context(), job2, 0, true, nil)} {
		if dreamcore.CodeOf(err) != dreamcore.CodeNotFound || dreamcore.ReasonOf(err) != "test.unknown" {
			t.Errorf("an unknown job: %v", err)
		}
	}
}

func TestTheEventsOfAJobAreFollowedToItsEnd(t *testing.T) {
	c, _, logs := openWithJobs(t)
	log, err := logs.Create(job1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(dreamcore.StatusEvent("one")); err != nil {
		t.Fatal(err)
	}
	count := func(after uint64, follow bool) (n int) {
		if err := c.JobEvents(t.Context(), job1, after, follow, func(dreamcore.Event) error {
			if n++; n == 1 && follow { // the rest comes while it is followed
				_, err := log.Append(dreamcore.DoneEvent())
				return errors.Join(err, log.Close())
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		return n
	}
	if n := count(0, false); n != 1 {
		t.Errorf("%d events are there", n)
	}
	if n := count(0, true); n != 2 {
		t.Errorf("%d events were followed", n)
	}
	if n := count(1, false); n != 1 {
		t.Errorf("%d events after the first", n)
	}
}
