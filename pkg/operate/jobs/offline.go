package jobs

import (
	"context"
	"errors"
	"io"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// Offline returns the jobs in a state directory while no service runs. It only
// reads, and not before it is asked.
func Offline(logs, index string) Reader { return &offline{logs: logs, index: index} }

// OrOffline returns service or, if it does not run, the jobs in a state directory. It
// closes the service if it does not return it.
func OrOffline(ctx context.Context, service Source, logs, index string) (Reader, error) {
	_, err := service.List(ctx, dreamcore.JobFilter{Limit: 1})
	if err == nil {
		return service, nil
	}
	if closed := service.Close(); closed != nil || dreamcore.ReasonOf(err) != control.ReasonNotRunning {
		return nil, errors.Join(err, closed)
	}
	return Offline(logs, index), nil
}

// IsOffline reports whether no service runs: jobs that have not ended wait for the
// next one.
func IsOffline(r Reader) bool {
	_, is := r.(*offline)
	return is
}

type offline struct {
	logs, index string
	jobs        *job.Offline // nil until open
}

func (o *offline) open() (_ *job.Offline, err error) {
	if o.jobs == nil {
		o.jobs, err = job.OpenOffline(o.logs, o.index)
	}
	return o.jobs, err
}

// unchanged reports whether the jobs are still those that were read.
func (o *offline) unchanged() bool { return o.jobs != nil && o.jobs.Unchanged() }

func (o *offline) List(_ context.Context, f dreamcore.JobFilter) (dreamcore.JobPage, error) {
	stored, err := o.open()
	if err != nil {
		return dreamcore.JobPage{}, err
	}
	return stored.List(f)
}

func (o *offline) Get(_ context.Context, id string) (dreamcore.Job, error) {
	stored, err := o.open()
	if err != nil {
		return dreamcore.Job{}, err
	}
	return stored.Get(id)
}

func (o *offline) Close() error {
	if o.jobs == nil {
		return nil
	}
	return o.jobs.Close()
}

// Events implements Reader. A job that has not ended cannot be followed: it goes on
// when the service runs again.
func (o *offline) Events(ctx context.Context, id string, follow bool, fn func(dreamcore.Event) error) (err error) {
	stored, err := o.open()
	if err != nil {
		return err
	}
	r, err := stored.Reader(id, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	ended := false
	for {
		e, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		ended = e.Terminal()
		if err := fn(e.Event); err != nil {
			return err
		}
	}
	if follow && !ended {
		return &dreamcore.Error{
			Code: dreamcore.CodeUnreachable, Reason: control.ReasonNotRunning, Message: "the job goes on when its service runs: no service is running on this state directory",
		}
	}
	return nil
}
