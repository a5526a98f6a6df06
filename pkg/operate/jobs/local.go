package jobs

import (
	"context"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Local returns the service whose control socket is in dir.
func Local(dir string) Source { return local{control.NewClient(dir)} }

type local struct{ c *control.Client }

func (l local) List(ctx context.Context, f dreamcore.JobFilter) (dreamcore.JobPage, error) {
	return l.c.ListJobs(ctx, f)
}

func (l local) Get(ctx context.Context, id string) (dreamcore.Job, error) { return l.c.Job(ctx, id) }

func (l local) Events(ctx context.Context, id string, follow bool, fn func(dreamcore.Event) error) error {
	return l.c.JobEvents(ctx, id, 0, follow, fn)
}

func (l local) Cancel(ctx context.Context, id string) (dreamcore.Job, error) {
	return l.c.CancelJob(ctx, id)
}

func (l local) Retry(ctx context.Context, id string) (string, error) { return l.c.RetryJob(ctx, id) }

func (l local) Close() error {
	l.c.Close()
	return nil
}
