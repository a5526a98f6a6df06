package slots

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Draft is a map that can be changed.
type Draft struct {
	Cells       []string
	Owner       [dreamcore.Slots]string
	Users       map[dreamcore.UserID]string // exceptions
	MovingSlots map[int]string              // where to
	MovingUsers map[dreamcore.UserID]string
	Draining    []string // sorted
}

// Draft returns a draft of the map.
func (m *Map) Draft() *Draft {
	return &Draft{
		Cells: slices.Clone(m.cells), Owner: m.owner, Users: cloneMap(m.users), MovingSlots: cloneMap(m.moving), MovingUsers: cloneMap(m.movingUser),
		Draining: slices.Sorted(maps.Keys(m.draining)),
	}
}

// cloneMap returns a copy that can be written to, also of nil.
func cloneMap[K comparable](m map[K]string) map[K]string {
	c := make(map[K]string, len(m))
	maps.Copy(c, m)
	return c
}

// Edit returns the next generation of the map, as change leaves it. The errors are
// change's, and CodeInvalid for an invalid map.
func (m *Map) Edit(change func(*Draft) error) (*Map, error) {
	d := m.Draft()
	if err := change(d); err != nil {
		return nil, err
	}
	raw, err := d.encode(m.generation + 1)
	if err != nil {
		return nil, err
	}
	return Decode(raw)
}

// Encode returns the JSON form of the map.
func (m *Map) Encode() ([]byte, error) { return m.Draft().encode(m.generation) }

func (d *Draft) encode(generation uint64) ([]byte, error) {
	o := object{Generation: generation, Cells: d.Cells, Slots: d.Ranges(), Users: stringMap(d.Users), Draining: d.Draining}
	o.Moving.Users = stringMap(d.MovingUsers)
	if len(d.MovingSlots) > 0 {
		o.Moving.Slots = map[string]string{}
		for slot, cell := range d.MovingSlots {
			o.Moving.Slots[strconv.Itoa(slot)] = cell
		}
	}
	raw, err := json.Marshal(o)
	if err == nil && len(raw) > MaxBytes {
		err = invalid(errors.New("it would be too large: move users with their slots instead of one by one"))
	}
	return raw, err
}

func stringMap(m map[dreamcore.UserID]string) map[string]string {
	s := make(map[string]string, len(m))
	for user, cell := range m {
		s[string(user)] = cell
	}
	return s
}

// Ranges returns the slots of each cell as they are encoded.
func (d *Draft) Ranges() map[string]string {
	parts := map[string][]string{}
	for first := 0; first < len(d.Owner); {
		last := first
		for last+1 < len(d.Owner) && d.Owner[last+1] == d.Owner[first] {
			last++
		}
		text := strconv.Itoa(first)
		if last > first {
			text += "-" + strconv.Itoa(last)
		}
		parts[d.Owner[first]] = append(parts[d.Owner[first]], text)
		first = last + 1
	}
	joined := map[string]string{}
	for cell, p := range parts {
		joined[cell] = strings.Join(p, ",")
	}
	return joined
}

// Owner returns the cell of a slot.
func (m *Map) Owner(slot int) string { return m.owner[slot] }

// Count returns how many slots each cell has.
func (m *Map) Count() map[string]int {
	n := map[string]int{}
	for _, cell := range m.owner {
		n[cell]++
	}
	return n
}

// Exceptions returns the users who do not live where their slot is, with their cells.
// The caller must not change the result.
func (m *Map) Exceptions() map[dreamcore.UserID]string { return m.users }

// MovingSlots returns the slots that are being moved, with where to. The caller must not
// change the result.
func (m *Map) MovingSlots() map[int]string { return m.moving }

// MovingUsers is MovingSlots for users.
func (m *Map) MovingUsers() map[dreamcore.UserID]string { return m.movingUser }

// Has reports whether a cell is in the map.
func (m *Map) Has(cell string) bool { return m.names[cell] }
