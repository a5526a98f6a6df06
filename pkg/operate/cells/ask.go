package cells

import (
	"context"
	"fmt"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// source returns the cell that a subject comes from whose move has flipped, or "" if
// nothing of the move is left to do.
func (m *move) source(ctx context.Context, at *slots.Map) (string, error) {
	_, moving := place(at, m.subject)
	found := m.ask(ctx, at, m.subject)
	st, ok := found[m.to]
	if m.subject.User != "" && (st.State == residence.Arrived || st.State == residence.Here) {
		m.id = st.Move
	}
	from := ""
	for name, other := range found {
		if name == m.to || other.Cell != m.to || m.id != "" && other.Move != m.id {
			continue
		}
		// An earlier move may have left a mark of a slot, too.
		if other.State == residence.Leaving || other.State == residence.Left && moving != "" && (from == "" || found[from].State == residence.Left && found[from].Since.Before(other.Since)) {
			from = name
		}
	}
	if from != "" {
		m.id = found[from].Move
		return from, nil
	}
	switch {
	case ok && st.State == residence.Arrived && st.Cell != "":
		return st.Cell, nil
	case ok && moving == "":
		return "", nil
	case len(found) < len(at.Cells()):
		return "", &dreamcore.Error{
			Code: dreamcore.CodeUnreachable, Message: fmt.Sprintf("%s lives in %s now, but only %d of %d cells answer: one of the others may hold what has moved", m.subject, m.to, len(found), len(at.Cells())),
			Hint: "run the command again when all of them do",
		}
	}
	return m.to, nil // nothing is left in the source
}

// maxAsked bounds the cells that are asked at once.
const maxAsked = 16

// ask asks all cells about a subject. Those that do not answer are left out.
func (v *Mover) ask(ctx context.Context, at *slots.Map, subject residence.Subject) map[string]relocation.Status {
	var mu sync.Mutex
	all := map[string]relocation.Status{}
	var running sync.WaitGroup
	slot := make(chan struct{}, maxAsked)
	for _, name := range at.Cells() {
		slot <- struct{}{}
		running.Go(func() {
			defer func() { <-slot }()
			cell, err := v.Cell(ctx, name)
			if err != nil {
				return
			}
			st, err := cell.Move(ctx, subject)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				all[name] = st
			}
		})
	}
	running.Wait()
	return all
}
