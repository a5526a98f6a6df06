package cells

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// failed undoes a move that this process has begun.
func (m *move) failed(ctx context.Context, err error) error {
	if !m.began || errors.Is(err, errKilled) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if undone := m.undo(ctx, m.subject, m.id); undone != nil {
		return errors.Join(err, fmt.Errorf("the move was not undone; repeat it, or run: dreamcore cells undo %s: %w", m.subject, undone))
	}
	return err
}

// undoes returns the id of a move of which a cell has something to undo, or "": the
// owner what it holds, the others what has arrived.
func undoes(s residence.Subject, st relocation.Status, owner bool) string {
	switch {
	case owner && st.State != residence.Leaving:
		return ""
	case !owner && s.User == "":
		return st.Arriving
	case !owner && st.State != residence.Arriving && st.State != residence.Arrived:
		return ""
	}
	return st.Move
}

// Undo takes back a move that has not reached the flip. CodeConflict: it has.
func (v *Mover) Undo(ctx context.Context, subject residence.Subject) error {
	return v.undo(ctx, subject, "")
}

// undo is Undo of the move of an id, if it is not "", and of no other.
func (v *Mover) undo(ctx context.Context, subject residence.Subject, id string) error {
	at, err := v.swap(ctx, func(at *slots.Map) (func(*slots.Draft) error, error) {
		if err := checkOthers(at, subject); err != nil {
			return nil, err
		}
		cell, moving := place(at, subject)
		if moving != "" && moving == cell {
			return nil, conflict(fmt.Sprintf("finish the move with --to %s, and then move it back", cell), "%s lives in %s already", subject, cell)
		}
		if moving == "" {
			return nil, nil
		}
		if id != "" && v.holdsOther(ctx, subject, cell, id) {
			return nil, nil // which goes on
		}
		return func(d *slots.Draft) error {
			forget(d, subject)
			return nil
		}, nil
	})
	if err != nil {
		return err
	}
	owner, _ := place(at, subject)
	found := v.ask(ctx, at, subject)
	var errs []error
	if len(found) < len(at.Cells()) {
		errs = append(errs, &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: fmt.Sprintf("only %d of %d cells answer", len(found), len(at.Cells())), Hint: "repeat it when all of them do: one may still hold the user"})
	}
	if id == "" {
		// A move that another command begins after this has an id that was not found.
		now, _, err := v.Maps.Load(ctx)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if _, moving := place(now, subject); moving != "" {
			return conflict("look at: dreamcore cells list", "another command has begun a move of %s", subject)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		errs = append(errs, v.undoIn(ctx, name, subject, found[name], name == owner, id))
	}
	return errors.Join(errs...)
}

// holdsOther reports whether a cell holds a subject for another move than that of an id.
func (v *Mover) holdsOther(ctx context.Context, subject residence.Subject, name, id string) bool {
	cell, err := v.Cell(ctx, name)
	if err != nil {
		return false
	}
	st, err := cell.Move(ctx, subject)
	return err == nil && st.State == residence.Leaving && st.Move != id
}

// undoIn undoes in a cell what st says, only of the move of id if it is not "".
func (v *Mover) undoIn(ctx context.Context, name string, subject residence.Subject, st relocation.Status, owner bool, only string) error {
	for range maxTries { // users of a slot may have arrived in several moves
		id := undoes(subject, st, owner)
		if id == "" || only != "" && id != only {
			return nil
		}
		cell, err := v.Cell(ctx, name)
		if err == nil {
			st, err = cell.UndoMove(ctx, subject, id)
		}
		if err != nil || owner {
			return err
		}
	}
	return nil
}
