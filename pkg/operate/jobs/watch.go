package jobs

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// watchInterval is the time between two looks at the jobs.
const watchInterval = time.Second

// Watch shows the first limit jobs that f selects until ctx ends: on a terminal as
// a table that is drawn again, elsewhere a line for each job that has changed. open
// is called again when the service stops or starts.
func Watch(ctx context.Context, io *term.IO, open func(context.Context) (Reader, error), f dreamcore.JobFilter, limit int) (err error) {
	p := io.Stdout()
	var canvas *term.Canvas
	if p.Terminal() && !io.JSON {
		canvas = p.Canvas()
		defer canvas.Close()
	}
	w := watched{open: open}
	defer func() { err = errors.Join(err, w.close()) }()
	seen := map[string]dreamcore.Job{}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		all, ok, err := w.look(ctx, f, limit)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case !ok: // the table stays as it is
		case canvas != nil:
			canvas.Table(Table(p, all, time.Now()))
		default:
			if err := changed(io, seen, all); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watched is the source of a Watch, which changes when the service stops or starts.
type watched struct {
	open  func(context.Context) (Reader, error)
	r     Reader // nil before a look that has to open it
	all   []dreamcore.Job
	began bool // a look has succeeded
}

// look returns the jobs. ok is false while the service is starting or stopping. A look
// at a service costs one page of the list. Without a service, the stored jobs are
// read again only after they have changed.
func (w *watched) look(ctx context.Context, f dreamcore.JobFilter, limit int) (all []dreamcore.Job, ok bool, err error) {
	same, err := w.reopen(ctx)
	if same {
		return w.all, true, nil
	}
	if err == nil {
		all, _, err = Collect(ctx, w.r, f, limit)
	}
	gone := dreamcore.ReasonOf(err) == control.ReasonNotRunning
	if w.r != nil && (gone || err != nil && IsOffline(w.r)) {
		if closeErr := w.close(); closeErr != nil {
			return nil, false, errors.Join(err, closeErr)
		}
	}
	if err != nil && w.began && (gone || dreamcore.CodeOf(err) == dreamcore.CodeBusy) {
		return nil, false, nil
	}
	w.began, w.all = w.began || err == nil, all
	return all, err == nil, err
}

// reopen opens the source if it is not open, or if a service may have started since.
// same reports that there is still none and that the stored jobs have not changed.
func (w *watched) reopen(ctx context.Context) (same bool, err error) {
	if w.r != nil && !IsOffline(w.r) {
		return false, nil
	}
	r, err := w.open(ctx)
	if err != nil {
		return false, errors.Join(err, w.close())
	}
	if before, is := w.r.(*offline); is && IsOffline(r) && before.unchanged() {
		return true, r.Close()
	}
	err = w.close()
	w.r = r
	return false, err
}

func (w *watched) close() error {
	if w.r == nil {
		return nil
	}
	r := w.r
	w.r = nil
	return r.Close()
}

// changed prints the jobs that differ from those that were seen, the oldest first.
func changed(io *term.IO, seen map[string]dreamcore.Job, all []dreamcore.Job) error {
	for i := len(all) - 1; i >= 0; i-- {
		j := all[i]
		if before, ok := seen[j.ID]; ok && reflect.DeepEqual(before, j) {
			continue
		}
		seen[j.ID] = j
		if io.JSON {
			if err := io.WriteJSON(j); err != nil {
				return err
			}
			continue
		}
		// One line: with the line breaks of a prompt, a player could forge others.
		io.Stdout().Println(term.Clean(j.ID + " " + State(j) + " " + string(j.User) + " " + string(j.Project) + " " + j.Prompt))
	}
	return nil
}
