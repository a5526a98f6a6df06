package jobs

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Run submits a request and calls event with the events of its job. When ctx ends, it
// cancels the job and goes on to its last event; a job that cannot be cancelled is
// left, and the server notices that its listener has gone. s.Began is called first,
// with "" if the server does not name jobs. After limit, which may be 0 for none, it fails.
func Run(ctx context.Context, c *client.Client, s client.Submission, limit time.Duration, event func(dreamcore.Event) error) (client.Outcome, error) {
	following, leave := context.WithCancelCause(context.WithoutCancel(ctx))
	defer leave(nil)
	if limit > 0 {
		var cancel func()
		following, cancel = context.WithTimeout(following, limit)
		defer cancel()
	}
	var job atomic.Pointer[string] // nil until it was submitted
	stop := context.AfterFunc(ctx, func() {
		if id := job.Load(); id != nil && *id != "" {
			if _, err := c.CancelJob(following, *id); err == nil {
				return
			}
		}
		leave(context.Cause(ctx))
	})
	defer stop()
	began := s.Began
	begin := func(id string) error {
		job.Store(&id)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return began(id)
	}
	s.Began = begin
	return c.Submit(following, s, func(_ uint64, e dreamcore.Event) error {
		if job.Load() == nil {
			if err := begin(""); err != nil {
				return err
			}
		}
		return event(e)
	})
}
