package daemon

import (
	"context"
	"errors"
	"slices"
)

// teardown undoes the steps of an opening in reverse order. A step is added as
// soon as there is something to undo.
type teardown struct{ steps []func(context.Context) error }

func (t *teardown) add(step func(context.Context) error) { t.steps = append(t.steps, step) }

// addClose adds a Close that takes no context.
func (t *teardown) addClose(step func() error) {
	t.add(func(context.Context) error { return step() })
}

// run takes every step, also after one that fails. It may be called more than
// once: a step is taken once.
func (t *teardown) run(ctx context.Context) error {
	steps := t.steps
	t.steps = nil
	var errs []error
	for _, step := range slices.Backward(steps) {
		errs = append(errs, step(ctx))
	}
	return errors.Join(errs...)
}
