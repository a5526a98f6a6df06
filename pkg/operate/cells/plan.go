package cells

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
)

// atOnce is how many slots or users move at the same time.
const atOnce = 4

// mostFailed is how many moves of a plan may fail before no other one begins: one user
// must not keep a cell from being emptied, but a cell that has no space fails them all.
const mostFailed = 3

// Run does the moves of a plan, a few at a time, and calls ended with each. The error
// joins those of all moves that have failed; Run can be repeated for the rest of the
// plan.
func (v *Mover) Run(ctx context.Context, plan []slots.Step, ended func(Result)) error {
	var mu sync.Mutex
	var errs []error
	enough := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(errs) >= mostFailed
	}
	var running sync.WaitGroup
	slot := make(chan struct{}, atOnce)
	for _, step := range plan {
		select {
		case slot <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil || enough() {
			break
		}
		running.Go(func() {
			defer func() { <-slot }()
			r, err := v.Move(ctx, subjectOf(step), step.To)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ended(r)
				return
			}
			errs = append(errs, fmt.Errorf("move %s from %s to %s: %w", subjectOf(step), step.From, step.To, err))
		})
	}
	running.Wait()
	if len(errs) == 0 && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

func subjectOf(s slots.Step) residence.Subject {
	if s.User != "" {
		return residence.Subject{User: s.User}
	}
	return residence.Subject{Slot: s.Slot}
}

// Drain marks cells as draining, and returns the moves that empty them.
func (v *Mover) Drain(ctx context.Context, cells ...string) (plan []slots.Step, err error) {
	m, err := v.swap(ctx, func(at *slots.Map) (func(*slots.Draft) error, error) {
		for _, cell := range cells {
			if !at.Has(cell) {
				return nil, unknown(at, cell)
			}
		}
		return func(d *slots.Draft) error {
			for _, cell := range cells {
				if !slices.Contains(d.Draining, cell) {
					d.Draining = append(d.Draining, cell)
				}
			}
			slices.Sort(d.Draining)
			if len(d.Draining) == len(d.Cells) {
				return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "no cell would be left for the users", Hint: "add a cell first: dreamcore cells scale N"}
			}
			return nil
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return m.Away(cells...), nil
}

// Undrain removes the mark of a cell that is to be used again.
func (v *Mover) Undrain(ctx context.Context, cell string) error {
	_, err := v.swap(ctx, func(at *slots.Map) (func(*slots.Draft) error, error) {
		if !at.Has(cell) {
			return nil, unknown(at, cell)
		}
		return func(d *slots.Draft) error {
			d.Draining = slices.DeleteFunc(d.Draining, func(c string) bool { return c == cell })
			return nil
		}, nil
	})
	return err
}

func unknown(at *slots.Map, cell string) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("there is no cell %.80q", cell), Hint: "the cells are " + strings.Join(at.Cells(), ", ")}
}

// Add adds cells to the map, which get nothing yet.
func (v *Mover) Add(ctx context.Context, cells ...string) (*slots.Map, error) {
	return v.swap(ctx, func(*slots.Map) (func(*slots.Draft) error, error) {
		return func(d *slots.Draft) error {
			for _, cell := range cells {
				if !slices.Contains(d.Cells, cell) {
					d.Cells = append(d.Cells, cell)
				}
			}
			return nil
		}, nil
	})
}

// Remove removes cells that have nothing from the map.
func (v *Mover) Remove(ctx context.Context, cells ...string) (*slots.Map, error) {
	return v.swap(ctx, func(*slots.Map) (func(*slots.Draft) error, error) {
		return func(d *slots.Draft) error {
			gone := func(c string) bool { return slices.Contains(cells, c) }
			d.Cells, d.Draining = slices.DeleteFunc(d.Cells, gone), slices.DeleteFunc(d.Draining, gone)
			return nil // a cell that has something makes the map invalid
		}, nil
	})
}

// ordinal returns the parts of the name of a pod of a StatefulSet.
func ordinal(cell string) (set string, n int, ok bool) {
	at := strings.LastIndexByte(cell, '-')
	if at < 0 {
		return "", 0, false
	}
	n, err := strconv.Atoi(cell[at+1:])
	return cell[:at], n, err == nil && n >= 0 && strconv.Itoa(n) == cell[at+1:]
}

// scale returns the cells that a StatefulSet of n pods has and the map does not, and
// those that the map has beyond it, the highest first.
func scale(at *slots.Map, n int) (add, drop []string, err error) {
	if n < 1 || n > slots.MaxCells {
		return nil, nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("a cluster has 1 to %d cells", slots.MaxCells)}
	}
	name := ""
	for _, cell := range at.Cells() {
		set, number, ok := ordinal(cell)
		if !ok || name != "" && set != name {
			return nil, nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("%s is not a pod of one StatefulSet with the other cells", cell), Hint: "name the pods alike, or use: dreamcore cells drain and dreamcore cells add"}
		}
		name = set
		if number >= n {
			drop = append(drop, cell)
		}
	}
	for i := range n {
		if cell := fmt.Sprintf("%s-%d", name, i); !at.Has(cell) {
			add = append(add, cell)
		}
	}
	slices.SortFunc(drop, func(a, b string) int {
		_, x, _ := ordinal(a)
		_, y, _ := ordinal(b)
		return cmp.Compare(y, x)
	})
	return add, drop, nil
}
