package slots

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// randomMap returns a map of some cells, of which some drain, with slots anywhere.
func randomMap(t *testing.T, r *rand.Rand) *Map {
	t.Helper()
	var names []string
	for i := range 1 + r.IntN(20) {
		names = append(names, fmt.Sprintf("cell-%d", i))
	}
	m, err := Even(names)
	if err != nil {
		t.Fatal(err)
	}
	m, err = m.Edit(func(d *Draft) error {
		for slot := range d.Owner {
			if r.IntN(3) == 0 {
				d.Owner[slot] = names[r.IntN(1+r.IntN(len(names)))]
			}
		}
		for i := range r.IntN(10) {
			d.Users[dreamcore.UserID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i))] = names[r.IntN(len(names))]
		}
		for _, name := range names {
			if r.IntN(5) == 0 {
				d.Draining = append(d.Draining, name)
			}
		}
		slices.Sort(d.Draining)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// apply returns the map after a plan.
func apply(t *testing.T, m *Map, plan []Step) *Map {
	t.Helper()
	next, err := m.Edit(func(d *Draft) error {
		for _, s := range plan {
			at := d.Owner[s.Slot]
			if s.User != "" {
				at = m.User(s.User).Cell
				d.Users[s.User] = s.To
			} else {
				d.Owner[s.Slot] = s.To
			}
			if at != s.From || s.From == s.To {
				t.Errorf("%+v moves what is in %s", s, at)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// TestPlansAreEvenWithTheFewestMoves checks random maps against the bound that no plan
// can be below: what each cell has beyond its share must move.
func TestPlansAreEvenWithTheFewestMoves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		m := randomMap(t, r)
		plan := m.Plan()
		var open []string
		for _, c := range m.Cells() {
			if !m.Draining(c) {
				open = append(open, c)
			}
		}
		if len(open) == 0 {
			if plan != nil {
				t.Errorf("%d moves, and no cell for them", len(plan))
			}
			continue
		}
		next := apply(t, m, plan)
		count := next.Count()
		least, most := dreamcore.Slots, 0
		for _, c := range open {
			least, most = min(least, count[c]), max(most, count[c])
		}
		if most-least > 1 {
			t.Errorf("not even: %v", count)
		}
		for _, c := range m.Cells() {
			if m.Draining(c) && count[c] > 0 {
				t.Errorf("%s is draining and has %d slots", c, count[c])
			}
		}
		for user, c := range next.Exceptions() {
			if m.Draining(c) {
				t.Errorf("user %s stays in %s", user, c)
			}
		}
		if got, want := slotMoves(plan), fewest(m, open); got != want {
			t.Errorf("%d moves of slots, and %d are enough", got, want)
		}
		if again := next.Plan(); len(again) != 0 {
			t.Errorf("a second plan has %d moves", len(again))
		}
	}
}

func slotMoves(plan []Step) (n int) {
	for _, s := range plan {
		if s.User == "" {
			n++
		}
	}
	return n
}

// fewest returns the fewest moves after which the open cells are even: the larger
// shares go to the cells that have the most.
func fewest(m *Map, open []string) int {
	var have []int
	for _, c := range open {
		have = append(have, m.Count()[c])
	}
	slices.Sort(have)
	slices.Reverse(have)
	stay := 0
	for i, n := range have {
		share := dreamcore.Slots / len(open)
		if i < dreamcore.Slots%len(open) {
			share++
		}
		stay += min(n, share)
	}
	return dreamcore.Slots - stay
}

func TestAwayEmptiesCells(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		m := randomMap(t, r)
		cells := m.Cells()[:1+r.IntN(len(m.Cells()))]
		plan := m.Away(cells...)
		left := 0
		for _, c := range m.Cells() {
			if !m.Draining(c) && !slices.Contains(cells, c) {
				left++
			}
		}
		if left == 0 {
			if plan != nil {
				t.Errorf("%d moves to nowhere", len(plan))
			}
			continue
		}
		next := apply(t, m, plan)
		for _, c := range cells {
			if n := next.Count()[c]; n > 0 {
				t.Errorf("%s keeps %d slots", c, n)
			}
			for user, at := range next.Exceptions() {
				if at == c {
					t.Errorf("%s keeps user %s", c, user)
				}
			}
		}
		for _, s := range plan {
			if !slices.Contains(cells, s.From) {
				t.Errorf("%+v moves something else", s)
			}
		}
	}
}

func TestMapsSurviveEncoding(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		m := randomMap(t, r)
		m, err := m.Edit(func(d *Draft) error {
			d.MovingSlots[7], d.MovingUsers["00000000-0000-4000-8000-000000000001"] = d.Cells[0], d.Cells[0]
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		same, err := Decode(raw)
		if err != nil || same.Generation() != m.Generation() || same.owner != m.owner || same.MovingSlots()[7] != m.Cells()[0] || len(same.MovingUsers()) != 1 || len(same.Exceptions()) != len(m.Exceptions()) {
			t.Errorf("%v\n%s", err, raw)
		}
	}
	m, _ := Even([]string{"a"})
	if _, err := m.Edit(func(d *Draft) error { d.Cells = nil; return nil }); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Error(err)
	}
}
