package jobs

import (
	"context"
	"errors"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Remote returns the service that c talks to. Close closes c.
func Remote(c *client.Client) Source { return remote{c} }

type remote struct{ c *client.Client }

func (r remote) List(ctx context.Context, f dreamcore.JobFilter) (dreamcore.JobPage, error) {
	return r.c.Jobs(ctx, f)
}

func (r remote) Get(ctx context.Context, id string) (dreamcore.Job, error) { return r.c.Job(ctx, id) }

// errPresent stops the reading of a stream at the last event that there is.
var errPresent = errors.New("all events that there are were read")

func (r remote) Events(ctx context.Context, id string, follow bool, fn func(dreamcore.Event) error) error {
	last := uint64(0) // of the events to read; 0 for all
	if !follow {
		j, err := r.c.Job(ctx, id)
		if err != nil {
			return err
		}
		if last = j.LastEventID; last == 0 && !j.Final() {
			return nil // the stream would wait for the first one
		}
	}
	_, err := r.c.JobEvents(ctx, id, 0, func(n uint64, e dreamcore.Event) error {
		if err := fn(e); err != nil {
			return err
		}
		if last > 0 && n >= last {
			return errPresent
		}
		return nil
	})
	if errors.Is(err, errPresent) {
		return nil
	}
	return err
}

func (r remote) Cancel(ctx context.Context, id string) (dreamcore.Job, error) {
	return r.c.CancelJob(ctx, id)
}

// errBegun stops the reading of a stream whose job runs on.
var errBegun = errors.New("the job has begun")

func (r remote) Retry(ctx context.Context, id string) (string, error) {
	return Begin(ctx, r.c, client.Submission{Retry: id})
}

// Begin submits a job that runs on without listeners, and returns its id.
func Begin(ctx context.Context, c *client.Client, s client.Submission) (id string, err error) {
	s.Request.Detach = true
	s.Began = func(job string) error {
		id = job
		return errBegun
	}
	_, err = c.Submit(ctx, s, func(uint64, dreamcore.Event) error { return errBegun })
	if !errors.Is(err, errBegun) && err != nil {
		return "", err
	}
	if id == "" {
		return "", &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the server does not name the job", Hint: "its jobs cannot be left to themselves"}
	}
	return id, nil
}

func (r remote) Close() error {
	r.c.Close()
	return nil
}
