package jobs

import (
	"context"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
)

// Replay shows the events of a job as they were shown while it ran, up to its end
// if follow is set. It returns the outcome, and whether there was one. The caller
// shows it.
func Replay(ctx context.Context, view *gameview.View, r Reader, j dreamcore.Job, follow bool) (end client.Outcome, ended bool, err error) {
	if !j.Started.IsZero() {
		view.Began = j.Started
	}
	err = r.Events(ctx, j.ID, follow, func(e dreamcore.Event) error {
		if o, ok := client.Terminal(e); ok {
			end, ended = o, true
		}
		return view.Event(e)
	})
	view.Stop()
	view.Ended = j.Ended
	if ended {
		return end, true, nil // the rest of the stream does not matter
	}
	return end, false, err
}
