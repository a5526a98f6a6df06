package cells

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
)

// swap changes the map by compare-and-swap. change returns nil, nil to leave it.
func (v *Mover) swap(ctx context.Context, change func(*slots.Map) (func(*slots.Draft) error, error)) (*slots.Map, error) {
	for range maxTries {
		m, version, err := v.Maps.Load(ctx)
		if err != nil {
			return nil, err
		}
		edit, err := change(m)
		if err != nil || edit == nil {
			return m, err
		}
		next, err := m.Edit(edit)
		if err != nil {
			return nil, err
		}
		err = v.Maps.Store(ctx, next, version)
		if dreamcore.CodeOf(err) == dreamcore.CodeConflict {
			if err := pause(ctx, rand.N(swapPause)); err != nil {
				return nil, err
			}
			continue // another command has changed it meanwhile
		}
		return next, err
	}
	return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the map of cells changes all the time", Hint: "look for other commands that move users"}
}

// place returns the cell of a subject and where it is moving to, if it is.
func place(m *slots.Map, s residence.Subject) (cell, moving string) {
	if s.User == "" {
		return m.Owner(s.Slot), m.MovingSlots()[s.Slot]
	}
	if cell, ok := m.Exceptions()[s.User]; ok {
		return cell, m.MovingUsers()[s.User]
	}
	return m.Owner(s.User.Slot()), m.MovingUsers()[s.User]
}

func conflict(hint, format string, a ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: fmt.Sprintf(format, a...), Hint: hint}
}

// checkOthers returns an error if a subject takes part in another move.
func checkOthers(at *slots.Map, s residence.Subject) error {
	if s.User != "" {
		if to := at.MovingSlots()[s.User.Slot()]; to != "" {
			return conflict("wait until it has ended", "the slot %d of the user is being moved to %s", s.User.Slot(), to)
		}
		return nil
	}
	for user, to := range at.MovingUsers() {
		if user.Slot() == s.Slot {
			return conflict("wait until it has ended", "user %s of the slot is being moved to %s", user, to)
		}
	}
	return nil
}

// forgetExceptions removes exceptions that name the cell of their slot anyway.
func forgetExceptions(d *slots.Draft) {
	maps.DeleteFunc(d.Users, func(user dreamcore.UserID, cell string) bool { return d.Owner[user.Slot()] == cell })
}

func forget(d *slots.Draft, s residence.Subject) {
	if s.User != "" {
		delete(d.MovingUsers, s.User)
	} else {
		delete(d.MovingSlots, s.Slot)
	}
}
