package cells

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func done(io *term.IO, v any, message string, details ...string) error {
	return show.Value(io, v, func(p *term.Printer) { p.Success(message, details...) })
}

// line shows the progress of moves.
type line struct {
	io   *term.IO
	text string
	bar  *term.Progress

	mu    sync.Mutex
	all   int // moves of the plan; 0 for a single one
	count int // that have ended; guarded by mu
	last  string
}

func newLine(io *term.IO, text string) *line {
	return &line{io: io, text: text, bar: io.Stderr().Progress(text)}
}

func (l *line) stop() { l.bar.Stop() }

func (l *line) plan(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = n
}

// every is how often a pipe gets a line in a long plan.
const every = 16

// ended counts a move.
func (l *line) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if l.count%every == 0 || l.count == l.all || l.io.Stderr().Terminal() {
		l.bar.Update(fmt.Sprintf("%s: %d of %d moves", l.text, l.count, l.all))
	}
}

// show shows the step of a single move. On a terminal it shows bytes too.
func (l *line) show(p Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all > 0 {
		return
	}
	text := l.text + ": " + p.Step
	switch {
	case p.Step == "hold" && p.Running > 0:
		text = fmt.Sprintf("%s: %d jobs still run", l.text, p.Running)
	case p.Step == "copy" && p.Users > 1:
		text += fmt.Sprintf(", %d of %d users", p.Copied, p.Users)
	}
	if l.io.Stderr().Terminal() && p.Bytes > 0 {
		text += ", " + term.Size(p.Bytes)
	}
	if text != l.last {
		l.last = text
		l.bar.Update(text)
	}
}

// cellView is a cell in the list.
type cellView struct {
	Name       string `json:"name"`
	Address    string `json:"address,omitempty"`
	Serves     bool   `json:"serves"`
	Error      string `json:"error,omitempty"` // why it does not
	Slots      string `json:"slots,omitempty"`
	Count      int    `json:"slot_count"`
	Exceptions int    `json:"exceptions"`
	Draining   bool   `json:"draining,omitempty"`
}

// overview is the answer of cells list.
type overview struct {
	Generation  uint64            `json:"generation"`
	Cells       []cellView        `json:"cells"`
	Users       map[string]string `json:"users,omitempty"` // exceptions
	MovingSlots map[string]string `json:"moving_slots,omitempty"`
	MovingUsers map[string]string `json:"moving_users,omitempty"`
	from        map[string]string // of what moves
}

// overview asks the cells whether they serve.
func (c *Cluster) overview(ctx context.Context) (overview, error) {
	m, _, err := c.Load(ctx)
	if err != nil {
		return overview{}, err
	}
	addresses, err := c.Addresses(ctx)
	if err != nil {
		return overview{}, err
	}
	o := overview{Generation: m.Generation(), Users: map[string]string{}, MovingSlots: map[string]string{}, MovingUsers: map[string]string{}, from: map[string]string{}}
	exceptions := map[string]int{}
	for user, cell := range m.Exceptions() {
		exceptions[cell]++
		o.Users[string(user)] = cell
	}
	for slot, to := range m.MovingSlots() {
		o.MovingSlots[strconv.Itoa(slot)], o.from[strconv.Itoa(slot)] = to, m.Owner(slot)
	}
	for user, to := range m.MovingUsers() {
		o.MovingUsers[string(user)], o.from[string(user)] = to, m.User(user).Cell
	}
	ranges, count := m.Draft().Ranges(), m.Count()
	var running sync.WaitGroup
	turn := make(chan struct{}, maxAsked)
	o.Cells = make([]cellView, len(m.Cells()))
	for i, name := range m.Cells() {
		v := &o.Cells[i]
		*v = cellView{Name: name, Address: addresses[name], Slots: ranges[name], Count: count[name], Exceptions: exceptions[name], Draining: m.Draining(name)}
		turn <- struct{}{}
		running.Go(func() {
			defer func() { <-turn }()
			err := c.serves(ctx, name)
			if v.Serves = err == nil; err != nil {
				v.Error = err.Error()
			}
		})
	}
	running.Wait()
	return o, ctx.Err()
}

// maxShown bounds the rows of what moves, and of plans, for people.
const maxShown = 20

func (o overview) show(io *term.IO) error {
	if io.JSON {
		return io.WriteJSON(o)
	}
	err := show.List[cellView]{
		Columns: show.Columns("CELL", "ADDRESS", "SERVES", ">SLOTS", ">EXCEPTIONS", "STATE"),
		Cells: func(v cellView) []string {
			serves, state := "yes", "-"
			if !v.Serves {
				serves = "no"
			}
			if v.Draining {
				state = "draining"
			}
			return []string{v.Name, cmp.Or(v.Address, "-"), serves, strconv.Itoa(v.Count), strconv.Itoa(v.Exceptions), state}
		},
	}.Show(io, o.Cells, nil)
	p := io.Stdout()
	for _, v := range o.Cells {
		if v.Error != "" {
			p.Warning(v.Name+" does not serve", p.Fit(v.Error, 300))
		}
	}
	var moves []string
	for _, list := range []struct {
		what string
		all  map[string]string
	}{{"slot ", o.MovingSlots}, {"user ", o.MovingUsers}} {
		for _, id := range slices.Sorted(maps.Keys(list.all)) {
			moves = append(moves, fmt.Sprintf("%s%s moves from %s to %s", list.what, id, o.from[id], list.all[id]))
		}
	}
	for _, text := range moves[:min(len(moves), maxShown)] {
		p.Info(text)
	}
	if n := len(moves) - maxShown; n > 0 {
		p.Info(fmt.Sprintf("and %d more", n))
	}
	return err
}

// showPlan shows the moves of a plan: each for programs, their numbers for people.
func showPlan(io *term.IO, plan []slots.Step) error {
	if io.JSON {
		if plan == nil {
			plan = []slots.Step{}
		}
		return io.WriteJSON(map[string]any{"plan": plan})
	}
	type pair struct{ from, to string }
	count := map[pair]int{}
	users := map[pair][]string{}
	for _, s := range plan {
		p := pair{s.From, s.To}
		if s.User != "" {
			users[p] = append(users[p], string(s.User))
		} else {
			count[p]++
		}
	}
	if len(plan) == 0 {
		io.Stdout().Info("nothing has to move")
		return nil
	}
	all := slices.Collect(maps.Keys(count))
	for p := range users {
		if count[p] == 0 {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b pair) int { return cmp.Or(strings.Compare(a.from, b.from), strings.Compare(a.to, b.to)) })
	return show.List[pair]{
		Columns: show.Columns("FROM", "TO", ">SLOTS", ">USERS"),
		Cells: func(p pair) []string {
			return []string{p.from, p.to, strconv.Itoa(count[p]), strconv.Itoa(len(users[p]))}
		},
	}.Show(io, all, nil)
}

func showResult(io *term.IO, r Result) error {
	if r.From == "" {
		return done(io, r, r.Subject+" lives in "+r.To+" already")
	}
	err := done(io, r, r.Subject+" lives in "+r.To+" now", "from "+r.From, fmt.Sprintf("%d users, %s", r.Users, term.Size(r.Bytes)), term.Duration(r.Took))
	showLeftOut(io, r)
	return err
}

// showLeftOut shows on standard error what moves did not copy.
func showLeftOut(io *term.IO, all ...Result) {
	if io.JSON {
		return // the result has it
	}
	p, n := io.Stderr(), 0
	for _, r := range all {
		for _, l := range r.LeftOut {
			if n++; n <= maxShown {
				p.Warning("user "+string(l.User)+": "+p.Fit(l.Note, 300), "stays in "+r.From+" for a day")
			}
		}
		n += r.LeftOutMore
	}
	if n > maxShown {
		p.Warning(fmt.Sprintf("and %d more notes", n-maxShown), "the logs of the cells have the first of each user")
	}
}

func showResults(io *term.IO, all []Result) error {
	users, bytes := 0, int64(0)
	for _, r := range all {
		users, bytes = users+r.Users, bytes+r.Bytes
	}
	if io.JSON {
		return io.WriteJSON(map[string]any{"moves": all, "users": users, "bytes": bytes})
	}
	io.Stdout().Success(fmt.Sprintf("%d moves were made", len(all)), fmt.Sprintf("%d users, %s", users, term.Size(bytes)))
	showLeftOut(io, all...)
	return nil
}
