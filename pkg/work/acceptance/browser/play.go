package browser

import (
	"context"
	"time"

	"github.com/chromedp/cdproto/runtime"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// The times of a check. A game that is ready and reacts needs the short ones only.
const (
	loadTime   = 8 * time.Second        // for the load event
	blankTime  = 5 * time.Second        // more, while nothing is drawn
	settleTime = 400 * time.Millisecond // for the first pictures to follow each other
	baseTime   = 350 * time.Millisecond // of watching without input
	reactTime  = 400 * time.Millisecond // for a change after an input
	quietTime  = 200 * time.Millisecond // without a change, of a picture that stands still
	markTime   = 120 * time.Millisecond // for which browsers mark a pressed element
	lastTime   = 200 * time.Millisecond // for errors after the last input
	slowTime   = 1500 * time.Millisecond

	loadingTime  = 12 * time.Second        // for a game that says that it loads
	portraitTime = 1500 * time.Millisecond // for the picture of the report
)

// round has the findings of one screen's play, beside the evidence.
type round struct {
	opened  bool
	before  *state // without input; nil if it could not be read
	after   *state // after the inputs
	moves   bool   // it changed by itself
	reacted map[verdict.Name]bool
	tried   map[verdict.Name]bool
	ended   bool // the play came to its end
	short   bool // it did not wait for the first picture: the game has failed before
	look    look
	heap    float64 // bytes that scripts used before the inputs; 0 if unknown

	loading string        // its text while it never ends to load
	waited  time.Duration // for that
}

func (t *tab) phone() bool { return t.screen == verdict.Phone }

// play opens the game and plays it. It returns early when ctx ends.
func (t *tab) play(ctx context.Context, address string, r *round) {
	defer func() {
		if !r.ended {
			r.look = t.film.look()
		}
	}()
	began := time.Now()
	r.reacted, r.tried = map[verdict.Name]bool{}, map[verdict.Name]bool{}
	refused, err := t.navigate(ctx, address)
	if err != nil {
		if ctx.Err() == nil {
			t.gone()
		}
		return
	}
	if refused != "" {
		t.ev.mu.Lock()
		if t.ev.noPage == "" {
			t.ev.noPage = "The page could not be opened: " + clean(refused, 100)
		}
		t.ev.mu.Unlock()
		return
	}
	r.opened = true
	if t.ev.unopened() {
		return
	}
	t.await(ctx, loadTime, func() bool {
		t.ev.mu.Lock()
		defer t.ev.mu.Unlock()
		return t.ev.loaded
	})
	t.await(ctx, settleTime, func() bool { l := t.film.look(); return l.newest != nil && l.newest.shown && l.changes > 0 })
	t.await(ctx, blankTime, func() bool {
		l := t.film.look()
		r.short = t.ev.failing() && (l.newest == nil || !l.newest.shown)
		return r.short || l.newest != nil && l.newest.shown
	})
	r.before, _ = t.state(ctx)
	r.heap = t.heap(ctx)
	r.moves = t.moving(ctx, baseTime)
	t.operate(ctx, r)
	if !r.moves && len(r.reacted) == 0 && ctx.Err() == nil && !t.ev.failing() {
		// It may start slowly, or the inputs missed the listening element.
		r.moves = t.moving(ctx, slowTime)
		t.insist(ctx, r)
	}
	if !r.moves {
		r.moves = t.moving(ctx, lastTime)
	} else {
		pause(ctx, lastTime)
	}
	r.after, _ = t.state(ctx)
	t.outwait(ctx, r, began)
	r.ended = ctx.Err() == nil
	r.look = t.film.look()
}

// outwait waits for a game that only says that it loads: it may be slow, and only
// after a long time is it certain that it does not come to an end.
func (t *tab) outwait(ctx context.Context, r *round, began time.Time) {
	for ctx.Err() == nil && r.after != nil && !t.ev.failing() {
		text := r.after.loads()
		if text == "" {
			return
		}
		if waited := time.Since(began); waited > loadingTime && !t.ev.loadsFiles() {
			r.loading, r.waited = text, waited
			return
		}
		pause(ctx, 500*time.Millisecond)
		if s, err := t.state(ctx); err == nil {
			if r.after = s; s.loads() == "" {
				t.operate(ctx, r) // now it can be played
			}
		}
	}
}

// failing reports whether a fault is known with which the game has failed, so that
// there is nothing more to wait for.
func (e *evidence) failing() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.helpless && len(e.errors)+len(e.missing)+len(e.outside) > 0
}

// unopened reports whether there is no page to play.
func (e *evidence) unopened() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.noPage != ""
}

// await waits until is holds, for at most d. It looks when a picture comes, and
// every few milliseconds.
func (t *tab) await(ctx context.Context, d time.Duration, is func() bool) bool {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if is() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return is()
		case <-t.film.wake:
		case <-tick.C:
		}
	}
}

// moving watches for d whether the picture changes again and again: one or two
// changes may be images that come late.
func (t *tab) moving(ctx context.Context, d time.Duration) bool {
	start := t.film.look().changes
	return t.await(ctx, d, func() bool { return t.film.look().changes >= start+3 })
}

// try sends an input and reports whether the picture changed after it, and not
// only for a moment, as it does where a browser marks a pressed element. While the
// picture moves by itself that shows nothing, so it does not wait then.
func (t *tab) try(ctx context.Context, r *round, name verdict.Name, send func()) bool {
	r.tried[name] = true
	start := t.film.look().changes
	if r.moves || !t.still(ctx) {
		r.moves = r.moves || t.film.look().changes >= start+4
		send()
		return false
	}
	place := t.place(ctx)
	before := t.film.look()
	send()
	if !t.await(ctx, reactTime, func() bool { return t.film.look().changes > before.changes }) {
		return false
	}
	pause(ctx, markTime)
	after := t.film.look()
	if after.changes < before.changes+4 && before.newest != nil && !after.newest.differs(before.newest) {
		return false
	}
	if t.place(ctx) != place {
		return false // the browser scrolled
	}
	r.reacted[name] = true
	return true
}

// place returns how the page is scrolled and magnified, which browsers do without
// the page's help.
func (t *tab) place(ctx context.Context) string {
	yes := true
	asked, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	e, err := call(asked, t.page, runtime.Evaluate, runtime.EvaluateParams{
		Expression:    "(() => { const v = visualViewport; return [scrollX, scrollY, v.scale * 100, v.pageLeft, v.pageTop].map(Math.round) + '' })()",
		ReturnByValue: &yes, Silent: &yes,
	})
	if err != nil || e.Result == nil {
		return ""
	}
	return string(e.Result.Value)
}

// still reports whether the picture stands still. It waits until what the page has
// drawn was shown.
func (t *tab) still(ctx context.Context) bool {
	quiet := func() bool { return time.Since(t.film.look().last) > quietTime }
	if !t.await(ctx, 3*quietTime, quiet) {
		return false
	}
	flush, cancel := context.WithTimeout(ctx, quietTime)
	defer cancel()
	yes := true
	_, _ = call(flush, t.page, runtime.Evaluate, runtime.EvaluateParams{
		Expression: "new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => r(0))))", AwaitPromise: &yes, Silent: &yes,
	})
	return quiet()
}

// operate plays as a person would: it fills in a name, presses what starts the
// game, and then uses keys, or the finger.
func (t *tab) operate(ctx context.Context, r *round) {
	hit := verdict.Pointer
	if t.phone() {
		hit = verdict.Touch
	}
	s := r.before
	if s == nil {
		s = &state{View: [3]float64{float64(t.size.width), float64(t.size.height), 1}}
	}
	t.fill(ctx, s)
	t.start(ctx, r, s, hit)
	if again, err := t.state(ctx); err == nil && len(s.starts()) > 0 && len(again.starts()) > 0 && !r.moves {
		// The first press may lead from a title to a menu.
		if c := again.starts()[0]; c.Text != s.starts()[0].Text {
			t.try(ctx, r, hit, func() { t.hit(ctx, c.Box[0]+c.Box[2]/2, c.Box[1]+c.Box[3]/2) })
		}
	}
	if !t.phone() {
		t.strike(ctx, r, []key{keyRight, keySpace, keyEnter, keyD}, []key{keyLeft, keyUp, keyDown, keyW, keyA, keyS})
	}
	w, h := s.View[0], s.View[1]
	if !r.reacted[hit] {
		t.try(ctx, r, hit, func() { t.drag(ctx, w*0.5, h*0.6, w*0.8, h*0.4) })
	}
}

// fill types a name into the first text field.
func (t *tab) fill(ctx context.Context, s *state) {
	for _, c := range s.Controls {
		if c.Field && !c.Disabled && s.seen(c.Box) && (c.Tag == "textarea" || c.Type == "text" || c.Type == "search" || c.Type == "") {
			t.hit(ctx, c.Box[0]+c.Box[2]/2, c.Box[1]+c.Box[3]/2)
			t.typeText("Player")
			return
		}
	}
}

// start presses the control that starts the game, or else the middle.
func (t *tab) start(ctx context.Context, r *round, s *state, name verdict.Name) {
	x, y := s.View[0]/2, s.View[1]/2
	if c := s.starts(); len(c) > 0 {
		x, y = c[0].Box[0]+c[0].Box[2]/2, c[0].Box[1]+c[0].Box[3]/2
	} else if b, ok := s.stage(); ok {
		x, y = b[0]+b[2]/2, b[1]+b[3]/2
	}
	if s.external(x, y) {
		return
	}
	if t.try(ctx, r, name, func() { t.hit(ctx, x, y) }) {
		r.moves = r.moves || t.moving(ctx, baseTime/2)
	}
}

// stage returns the part of the largest canvas that is on the screen.
func (s *state) stage() (box [4]float64, ok bool) {
	for _, b := range s.Canvases {
		left, top := max(b[0], 0), max(b[1], 0)
		right, bottom := min(b[0]+b[2], s.View[0]), min(b[1]+b[3], s.View[1])
		if right-left > 8 && bottom-top > 8 && (right-left)*(bottom-top) > box[2]*box[3] {
			box, ok = [4]float64{left, top, right - left, bottom - top}, true
		}
	}
	return box, ok
}

// external reports whether a link to another site is at a point: to follow it
// would be the driver's doing.
func (s *state) external(x, y float64) bool {
	for _, c := range s.Controls {
		if c.Out && x >= c.Box[0] && y >= c.Box[1] && x < c.Box[0]+c.Box[2] && y < c.Box[1]+c.Box[3] {
			return true
		}
	}
	return false
}

// strike presses keys, the second list only while nothing has reacted.
func (t *tab) strike(ctx context.Context, r *round, first, more []key) {
	for _, k := range first {
		if ctx.Err() != nil {
			return
		}
		if t.try(ctx, r, verdict.Keys, func() { t.press(ctx, k) }) {
			return
		}
	}
	if r.moves {
		return
	}
	t.try(ctx, r, verdict.Keys, func() {
		for _, k := range more {
			t.press(ctx, k)
		}
	})
}

// insist tries the places that the first inputs left out.
func (t *tab) insist(ctx context.Context, r *round) {
	hit := verdict.Pointer
	if t.phone() {
		hit = verdict.Touch
	}
	s, err := t.state(ctx)
	if err != nil || ctx.Err() != nil {
		return
	}
	var points [][2]float64
	for _, c := range s.starts() {
		if len(points) < 5 {
			points = append(points, [2]float64{c.Box[0] + c.Box[2]/2, c.Box[1] + c.Box[3]/2})
		}
	}
	b, ok := s.stage()
	if !ok {
		b = [4]float64{0, 0, s.View[0], s.View[1]}
	}
	for _, p := range [][2]float64{{0.5, 0.5}, {0.5, 0.7}, {0.5, 0.85}, {0.25, 0.3}, {0.75, 0.3}, {0.2, 0.8}} {
		points = append(points, [2]float64{b[0] + b[2]*p[0], b[1] + b[3]*p[1]})
	}
	for _, p := range points {
		if ctx.Err() != nil {
			return
		}
		if !s.external(p[0], p[1]) && t.try(ctx, r, hit, func() { t.hit(ctx, p[0], p[1]) }) {
			break
		}
	}
	if t.try(ctx, r, hit, func() { t.drag(ctx, b[0]+b[2]*0.25, b[1]+b[3]*0.5, b[0]+b[2]*0.75, b[1]+b[3]*0.5) }) {
		return
	}
	if !t.phone() && s.listens("key") {
		t.strike(ctx, r, []key{keySpace, keyEnter, keyOne, keyX, keyZ}, []key{keyLeft, keyUp, keyDown, keyW, keyA, keyS})
	}
}
