// Package slots is the map of a cluster: which cell serves which users. A cell is a
// whole service with its own disk. A user belongs to one of dreamcore.Slots slots,
// and the map assigns each slot to a cell; exceptions move single users elsewhere.
//
// The map is one JSON object of bounded size, so its readers need no database:
//
//	{"generation":7,
//	 "cells":["cell-0","cell-1"],
//	 "slots":{"cell-0":"0-511","cell-1":"512-1020,1021-1023"},
//	 "users":{"USER":"cell-1"},
//	 "moving":{"slots":{"17":"cell-1"},"users":{"USER":"cell-0"}},
//	 "draining":["cell-0"]}
//
// While a slot or a user moves, the cell that has the files still answers reads;
// changes wait until the map names the new cell.
//
// slots.go decodes maps and finds users, edit.go changes and encodes maps, plan.go says
// which slots have to move.
package slots

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Bounds of a map. An object of Kubernetes has at most 1 MiB.
const (
	MaxBytes = 1 << 20
	MaxCells = 1024
	MaxUsers = 4096 // exceptions
)

// Map assigns users to cells. It is not changed after Decode or Even.
type Map struct {
	generation uint64
	cells      []string
	names      map[string]bool // of cells
	owner      [dreamcore.Slots]string
	users      map[dreamcore.UserID]string
	moving     map[int]string // where to
	movingUser map[dreamcore.UserID]string
	draining   map[string]bool
	shared     map[int][]Place // of slots with exceptions; see Slot
}

// object is the JSON form of a Map.
type object struct {
	Generation uint64            `json:"generation"`
	Cells      []string          `json:"cells"`
	Slots      map[string]string `json:"slots"`
	Users      map[string]string `json:"users,omitempty"`
	Moving     struct {
		Slots map[string]string `json:"slots,omitempty"`
		Users map[string]string `json:"users,omitempty"`
	} `json:"moving,omitzero"`
	Draining []string `json:"draining,omitempty"`
}

// Even returns a map that divides the slots evenly among cells, in their order.
func Even(cells []string) (*Map, error) {
	m := &Map{}
	if err := m.setCells(cells); err != nil {
		return nil, invalid(err)
	}
	for slot := range m.owner {
		m.owner[slot] = m.cells[slot*len(m.cells)/dreamcore.Slots]
	}
	return m, nil
}

// Decode decodes a map. The error is CodeInvalid and names the fault: an unknown
// member, a repeated key, a slot without a cell or with two, a cell that the list of
// cells does not have.
func Decode(raw []byte) (*Map, error) {
	m, err := decode(raw)
	if err != nil {
		return nil, invalid(err)
	}
	return m, nil
}

func invalid(err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the map of cells is not valid: " + err.Error()}
}

func decode(raw []byte) (*Map, error) {
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("it has more than %d bytes", MaxBytes)
	}
	var o object
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the object")
	}
	if err := uniqueKeys(raw); err != nil {
		return nil, err
	}
	m := &Map{generation: o.Generation, users: map[dreamcore.UserID]string{}, moving: map[int]string{}, movingUser: map[dreamcore.UserID]string{}, draining: map[string]bool{}}
	if err := m.setCells(o.Cells); err != nil {
		return nil, err
	}
	if err := m.setSlots(o.Slots); err != nil {
		return nil, err
	}
	if err := m.setExceptions(o); err != nil {
		return nil, err
	}
	m.findShared()
	return m, nil
}

// uniqueKeys refuses an object that names a key twice, of which encoding/json would
// take the last one.
func uniqueKeys(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	type level struct {
		keys map[string]bool // nil in an array
		key  bool            // a key comes next
	}
	var open []level
	for {
		t, err := d.Token()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'):
			open = append(open, level{map[string]bool{}, true})
			continue
		case json.Delim('['):
			open = append(open, level{})
			continue
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		default:
			if n := len(open); n > 0 && open[n-1].key {
				// Go matches names of members in any case.
				key := strings.ToLower(t.(string))
				if open[n-1].keys[key] {
					return fmt.Errorf("the key %.60q is there twice", t)
				}
				open[n-1].keys[key], open[n-1].key = true, false
				continue
			}
		}
		if n := len(open); n > 0 {
			open[n-1].key = open[n-1].keys != nil
		}
	}
}

func (m *Map) setCells(cells []string) error {
	if len(cells) == 0 || len(cells) > MaxCells {
		return fmt.Errorf("it has %d cells, and must have 1 to %d", len(cells), MaxCells)
	}
	m.names = make(map[string]bool, len(cells))
	for _, c := range cells {
		if !isName(c) {
			return fmt.Errorf("%.80q is not the name of a cell: letters a-z, digits and dashes", c)
		}
		if m.names[c] {
			return fmt.Errorf("the cell %s is there twice", c)
		}
		m.names[c] = true
	}
	m.cells = slices.Clone(cells)
	return nil
}

// isName reports whether s is a label of a host name, as the names of pods are.
func isName(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func (m *Map) known(cell string) error {
	if !m.names[cell] {
		return fmt.Errorf("%.80q is not in the list of cells", cell)
	}
	return nil
}

func (m *Map) setSlots(ranges map[string]string) error {
	for cell, text := range ranges {
		if err := m.known(cell); err != nil {
			return err
		}
		for part := range strings.SplitSeq(text, ",") {
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			from, err := slotNumber(first)
			if err != nil {
				return err
			}
			to, err := slotNumber(last)
			if err != nil {
				return err
			}
			if to < from {
				return fmt.Errorf("the slots %q of %s end before they begin", part, cell)
			}
			for slot := from; slot <= to; slot++ {
				if m.owner[slot] != "" {
					return fmt.Errorf("the slot %d belongs to %s and to %s", slot, min(m.owner[slot], cell), max(m.owner[slot], cell))
				}
				m.owner[slot] = cell
			}
		}
	}
	if slot := slices.Index(m.owner[:], ""); slot >= 0 {
		return fmt.Errorf("the slot %d belongs to no cell", slot)
	}
	return nil
}

func slotNumber(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n >= dreamcore.Slots || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("%.40q is not a slot: a number from 0 to %d", s, dreamcore.Slots-1)
	}
	return n, nil
}

func (m *Map) setExceptions(o object) error {
	if len(o.Users) > MaxUsers || len(o.Moving.Users) > MaxUsers {
		return fmt.Errorf("it has more than %d exceptions", MaxUsers)
	}
	for text, cell := range o.Users {
		user, err := m.userEntry(text, cell)
		if err != nil {
			return err
		}
		m.users[user] = cell
	}
	for text, cell := range o.Moving.Users {
		user, err := m.userEntry(text, cell)
		if err != nil {
			return err
		}
		m.movingUser[user] = cell
	}
	for text, cell := range o.Moving.Slots {
		slot, err := slotNumber(text)
		if err == nil {
			err = m.known(cell)
		}
		if err != nil {
			return err
		}
		m.moving[slot] = cell
	}
	for _, cell := range o.Draining {
		if err := m.known(cell); err != nil {
			return err
		}
		m.draining[cell] = true
	}
	return nil
}

// userEntry checks an entry of a user, whose id must be in its only form.
func (m *Map) userEntry(text, cell string) (dreamcore.UserID, error) {
	user, err := dreamcore.ParseUserID(text)
	if err != nil || string(user) != text {
		return "", fmt.Errorf("%.60q is not a user: a UUID in lower case", text)
	}
	return user, m.known(cell)
}

// Generation returns the number of the map, which grows with each change.
func (m *Map) Generation() uint64 { return m.generation }

// Cells returns the names of all cells, which the caller must not change.
func (m *Map) Cells() []string { return m.cells }

// Draining reports whether a cell is being emptied: it should get nothing that
// another one can do.
func (m *Map) Draining(cell string) bool { return m.draining[cell] }

// Place is where the files of a user are.
type Place struct {
	Cell   string
	Moving bool // to another cell: changes must wait
}

// User returns the place of a user.
func (m *Map) User(user dreamcore.UserID) Place {
	slot := user.Slot()
	p := Place{m.owner[slot], m.moving[slot] != "" || m.movingUser[user] != ""}
	if cell, ok := m.users[user]; ok {
		p.Cell, p.Moving = cell, m.movingUser[user] != ""
	}
	return p
}

// Slot returns where something of a slot can be if its user is not known: first the
// cells of the users that are exceptions, since a user's former cell may keep an old
// copy for a while, then the slot's own. The caller must not change the result.
func (m *Map) Slot(slot int) []Place {
	if places, ok := m.shared[slot]; ok {
		return places
	}
	return []Place{{m.owner[slot], m.moving[slot] != ""}}
}

// findShared notes the slots that have exceptions.
func (m *Map) findShared() {
	moving := map[int]bool{} // slots with a user that moves
	for user := range m.movingUser {
		moving[user.Slot()] = true
	}
	m.shared = map[int][]Place{}
	for user, cell := range m.users {
		slot := user.Slot()
		if p := (Place{cell, moving[slot]}); cell != m.owner[slot] && !slices.Contains(m.shared[slot], p) {
			m.shared[slot] = append(m.shared[slot], p)
		}
	}
	for slot := range moving {
		if m.shared[slot] == nil {
			m.shared[slot] = []Place{}
		}
	}
	for slot, places := range m.shared {
		slices.SortFunc(places, func(a, b Place) int { return strings.Compare(a.Cell, b.Cell) })
		m.shared[slot] = append(places, Place{m.owner[slot], m.moving[slot] != "" || moving[slot]})
	}
}
