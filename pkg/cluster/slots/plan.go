package slots

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Step is a move of a plan: of a slot, or of a user who is an exception.
type Step struct {
	User dreamcore.UserID `json:"user_id,omitempty"` // "" for a slot
	Slot int              `json:"slot"`              // of the user, too
	From string           `json:"from"`
	To   string           `json:"to"`
}

// Plan returns the fewest moves after which the slots are spread evenly over the cells
// that are not draining: their numbers differ by at most one. Users who are exceptions
// stay where they are, unless their cell is draining: those go where their slot will be.
// It returns nothing if every cell is draining.
func (m *Map) Plan() []Step {
	var open []string
	for _, cell := range m.cells {
		if !m.draining[cell] {
			open = append(open, cell)
		}
	}
	if len(open) == 0 {
		return nil
	}
	count := m.Count()
	want := shares(open, count)
	final := m.owner
	var steps []Step
	for slot, cell := range m.owner {
		if want[cell] > 0 {
			want[cell]--
			continue
		}
		steps = append(steps, Step{Slot: slot, From: cell})
	}
	at := 0
	for i := range steps {
		for want[open[at]] == 0 {
			at++
		}
		want[open[at]]--
		steps[i].To = open[at]
		final[steps[i].Slot] = open[at]
	}
	for user, cell := range m.users {
		if m.draining[cell] {
			steps = append(steps, Step{User: user, Slot: user.Slot(), From: cell, To: final[user.Slot()]})
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int {
		return cmp.Or(strings.Compare(string(a.User), string(b.User)), cmp.Compare(a.Slot, b.Slot))
	})
	return steps
}

// shares returns how many slots each cell gets. The cells with the most slots get the
// larger shares, so that the fewest slots move.
func shares(cells []string, count map[string]int) map[string]int {
	order := slices.Clone(cells)
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(count[b], count[a]) })
	want := map[string]int{}
	for i, cell := range order {
		want[cell] = dreamcore.Slots / len(order)
		if i < dreamcore.Slots%len(order) {
			want[cell]++
		}
	}
	return want
}

// Away returns the moves that empty cells: their slots go to the cells that have the
// fewest and are not draining, their exceptions to where their slots will be. Other
// cells keep what they have. It returns nothing if no other cell is there.
func (m *Map) Away(cells ...string) []Step {
	count := m.Count()
	var open []string
	for _, c := range m.cells {
		if !m.draining[c] && !slices.Contains(cells, c) {
			open = append(open, c)
		}
	}
	if len(open) == 0 {
		return nil
	}
	final := m.owner
	var steps []Step
	for slot, c := range m.owner {
		if !slices.Contains(cells, c) {
			continue
		}
		to := slices.MinFunc(open, func(a, b string) int { return cmp.Compare(count[a], count[b]) })
		count[to]++
		final[slot] = to
		steps = append(steps, Step{Slot: slot, From: c, To: to})
	}
	for _, user := range slices.Sorted(maps.Keys(m.users)) {
		if slices.Contains(cells, m.users[user]) {
			steps = append(steps, Step{User: user, Slot: user.Slot(), From: m.users[user], To: final[user.Slot()]})
		}
	}
	return steps
}
