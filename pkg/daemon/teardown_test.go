package daemon

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestTeardownTakesEveryStepOnceInReverse(t *testing.T) {
	var order []int
	fault := errors.New("fault")
	var undo teardown
	undo.add(func(context.Context) error { order = append(order, 1); return nil })
	undo.addClose(func() error { order = append(order, 2); return fault })
	undo.addClose(func() error { order = append(order, 3); return nil })
	if err := undo.run(t.Context()); !errors.Is(err, fault) {
		t.Errorf("the error of a step is lost: %v", err)
	}
	if err := undo.run(t.Context()); err != nil {
		t.Errorf("the second run: %v", err)
	}
	if !slices.Equal(order, []int{3, 2, 1}) {
		t.Errorf("order %v", order)
	}
}
