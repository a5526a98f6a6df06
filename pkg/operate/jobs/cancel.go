package jobs

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// recordInterval is the time between two looks at a record that is about to change.
const recordInterval = 50 * time.Millisecond

// Cancel cancels a job and waits for its end. It returns the final record.
func Cancel(ctx context.Context, s Source, id string) (dreamcore.Job, error) {
	j, err := s.Cancel(ctx, id)
	if err != nil || j.Final() {
		return j, err
	}
	if err := s.Events(ctx, id, true, func(dreamcore.Event) error { return nil }); err != nil {
		return j, err
	}
	// The record follows the last event in a moment.
	for {
		if j, err = s.Get(ctx, id); err != nil || j.Final() {
			return j, err
		}
		select {
		case <-time.After(recordInterval):
		case <-ctx.Done():
			return j, context.Cause(ctx)
		}
	}
}
