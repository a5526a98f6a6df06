package route

import (
	"slices"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
)

// Cell is a service behind the router.
type Cell struct {
	Name    string
	Address string // HOST:PORT
	Serving bool   // takes new jobs; one that is about to end still answers reads
}

// redialPause is how long a cell that could not be reached is left alone.
const redialPause = 200 * time.Millisecond

// Table is what a router knows of its cells: the map of users and the addresses of
// cells. The last values that were set stay in force. Its methods are safe for concurrent use.
type Table struct {
	mu      sync.Mutex
	m       *slots.Map           // guarded by mu; nil before SetMap
	cells   map[string]cellState // guarded by mu; those with an address; nil before SetCells
	changed chan struct{}        // guarded by mu; closed at the next change
	turn    int                  // guarded by mu; for requests that any cell can answer
}

type cellState struct {
	Cell
	failed time.Time // when it could not be reached; zero if it could
}

// NewTable returns an empty Table.
func NewTable() *Table { return &Table{changed: make(chan struct{})} }

// SetMap sets the map.
func (t *Table) SetMap(m *slots.Map) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m = m
	t.wake()
}

// SetCells sets the cells that have an address. Of two with one name, one that serves
// is taken.
func (t *Table) SetCells(cells []Cell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.cells
	t.cells = make(map[string]cellState, len(cells))
	for _, c := range cells {
		if have, ok := t.cells[c.Name]; ok && (have.Serving || !c.Serving) {
			continue
		}
		state := cellState{Cell: c}
		if was := old[c.Name]; was.Address == c.Address {
			state.failed = was.failed
		}
		t.cells[c.Name] = state
	}
	t.wake()
}

// wake must be called with mu held.
func (t *Table) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Ready reports whether requests can be routed: there was a map and a list of cells.
func (t *Table) Ready() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m != nil && t.cells != nil
}

// state returns the numbers for the metrics.
func (t *Table) state() (generation uint64, known, serving int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m != nil {
		generation, known = t.m.Generation(), len(t.m.Cells())
	}
	for _, c := range t.cells {
		if c.Serving && c.failed.IsZero() {
			serving++
		}
	}
	return generation, known, serving
}

// names returns the names of all cells of the map.
func (t *Table) names() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		return nil
	}
	return t.m.Cells()
}

// current returns the map, or nil.
func (t *Table) current() *slots.Map {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m
}

// reached notes whether a cell could be reached at an address, and reports whether
// that has changed.
func (t *Table) reached(name, address string, ok bool) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.cells[name]
	if c.Address != address || ok && c.failed.IsZero() {
		return false // another pod by now
	}
	changed = ok != c.failed.IsZero()
	if c.failed = time.Now(); ok {
		c.failed = time.Time{}
	}
	t.cells[name] = c
	return changed
}

// choice is the answer of choose: the cell to ask, or the reason why no cell can be asked at present.
type choice struct {
	cell    Cell
	last    bool          // no other cell can have the requested job or project
	fault   fault         // "" if cell may be asked
	changed chan struct{} // closed when the table has changed
	again   time.Duration // when the cell may be tried again, without a change
}

// choose returns the next cell to ask for something, of those that have not been tried.
func (t *Table) choose(w want, tried []string) choice {
	t.mu.Lock()
	defer t.mu.Unlock()
	ch := choice{changed: t.changed, again: time.Hour}
	if t.m == nil || t.cells == nil {
		ch.fault = faultNoMap
		return ch
	}
	if w.kind == anyCell {
		t.chooseAny(&ch)
		return ch
	}
	untried := func(p slots.Place) bool { return !slices.Contains(tried, p.Cell) }
	usable := func(p slots.Place) bool { return untried(p) && t.usable(p.Cell) }
	// The likely cells are asked in their order, and waited for: another one may keep an
	// old copy.
	places := w.likely(t.m)
	best := slices.IndexFunc(places, untried)
	if best < 0 && w.kind == oneOfAll {
		places = w.places(t.m)
		if best = slices.IndexFunc(places, usable); best < 0 { // what can be asked at once comes first
			best = slices.IndexFunc(places, untried)
		}
	}
	if best < 0 { // the map has changed meanwhile
		ch.fault, ch.again = faultAway, redialPause
		return ch
	}
	p := places[best]
	c := t.cells[p.Cell]
	ch.cell, ch.last = c.Cell, w.kind != oneOfAll || !slices.ContainsFunc(t.m.Cells(), func(name string) bool {
		return name != p.Cell && !slices.Contains(tried, name)
	})
	ch.cell.Name = p.Cell
	switch {
	case p.Moving && w.change:
		ch.fault = faultMoving
	case c.Address == "" || w.change && !c.Serving:
		ch.fault = faultAway
	case !t.usable(p.Cell):
		ch.fault, ch.again = faultAway, redialPause-time.Since(c.failed)
	}
	return ch
}

// usable reports whether a cell has an address that has not just failed. It must be
// called with mu held.
func (t *Table) usable(name string) bool {
	c := t.cells[name]
	return c.Address != "" && time.Since(c.failed) >= redialPause
}

// chooseAny chooses a cell for what every cell can answer. It must be called with mu
// held.
func (t *Table) chooseAny(ch *choice) {
	names := t.m.Cells()
	t.turn++
	for _, good := range []func(c cellState) bool{
		func(c cellState) bool { return c.Serving && c.failed.IsZero() && !t.m.Draining(c.Name) },
		func(c cellState) bool { return c.Serving && c.failed.IsZero() },
		func(c cellState) bool { return t.usable(c.Name) },
	} {
		for i := range names {
			if c := t.cells[names[(t.turn+i)%len(names)]]; c.Address != "" && good(c) {
				ch.cell, ch.last = c.Cell, true
				return
			}
		}
	}
	ch.fault, ch.again = faultNoCell, redialPause
}
