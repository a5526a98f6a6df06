package browser

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// judge turns the evidence of a screen into the checks of the report. A check
// fails only where it is certain. It must be called with the evidence's mu held.
// The inputs on the other screen show the abilities of the game.
func judge(e *evidence, r, other *round) []verdict.Check {
	j := &judgement{e: e, r: r, other: other, s: r.after}
	if j.s == nil {
		j.s = r.before
	}
	j.alive = e.crashed == "" && !e.silent && !e.lost && e.dialogN < maxDialogs && e.noPage == "" && r.opened
	for _, f := range []func(){
		j.loads, j.errors, j.offline, j.draws, j.moves, j.keys, j.touch, j.pointer, j.responsive, j.memory, j.stays, j.dialogs, j.fits,
	} {
		f()
	}
	return j.checks
}

type judgement struct {
	e      *evidence
	r      *round
	other  *round // may be nil
	s      *state // nil if the page never told
	alive  bool   // it could be played
	checks []verdict.Check
}

func (j *judgement) add(name verdict.Name, status verdict.Status, message string) {
	j.put(name, status, fault{text: message})
}

func (j *judgement) put(name verdict.Name, status verdict.Status, f fault) {
	if status == verdict.Failed && j.e.helpless && !slices.Contains([]verdict.Name{verdict.Loads, verdict.Offline, verdict.Stays, verdict.Dialogs}, name) {
		status, f.text = verdict.Unknown, "a file of an allowed host cannot be loaded here: "+f.text
	}
	f = f.placed()
	j.checks = append(j.checks, verdict.Check{
		Name: name, Screen: j.e.screen, Status: status, Message: clean(f.text, verdict.MaxMessage),
		File: f.file, Line: f.line, Column: f.column,
	})
}

// list puts up to three faults of a kind, or a pass.
func (j *judgement) list(name verdict.Name, faults []fault) {
	if len(faults) == 0 {
		j.add(name, verdict.Passed, "")
		return
	}
	for i, f := range faults[:min(len(faults), 3)] {
		if rest := len(faults) - 3; i == 2 && rest > 0 {
			f.text = clean(f.text, verdict.MaxMessage-40) + fmt.Sprintf(" (and %d more)", rest)
		}
		j.put(name, verdict.Failed, f)
	}
}

func (j *judgement) loads() {
	switch {
	case j.e.noPage != "":
		j.add(verdict.Loads, verdict.Failed, j.e.noPage)
	case len(j.e.missing) > 0:
		j.list(verdict.Loads, j.e.missing)
	case !j.r.opened || !j.e.dom && !j.e.loaded:
		j.add(verdict.Loads, verdict.Unknown, "the page was not loaded in time")
	default:
		j.add(verdict.Loads, verdict.Passed, "")
	}
}

func (j *judgement) errors() {
	if len(j.e.errors) == 0 && (!j.r.opened || j.e.flooded) {
		j.add(verdict.Errors, verdict.Unknown, "the console could not be followed")
		return
	}
	j.list(verdict.Errors, j.e.errors)
}

func (j *judgement) offline() { j.list(verdict.Offline, j.e.outside) }

func (j *judgement) draws() {
	l := j.r.look
	switch {
	case l.newest != nil && (l.newest.shown || !l.began.IsZero()):
		j.add(verdict.Draws, verdict.Passed, "")
	case !j.alive || l.newest == nil || !j.r.ended || j.r.short:
		j.add(verdict.Draws, verdict.Unknown, "the page showed nothing before the check ended")
	default:
		j.add(verdict.Draws, verdict.Failed, "the screen stays blank: every pixel has the same colour")
	}
}

// inputs are the kinds of listeners of any input.
var inputs = []string{"key", "touch", "pointer", "mouse", "click", "drag", "wheel", "field", "tilt", "pad"}

var pointing = []string{"touch", "pointer", "mouse", "click", "drag", "wheel"}

func (j *judgement) moves() {
	switch {
	case j.r.loading != "":
		j.add(verdict.Moves, verdict.Failed, fmt.Sprintf("it still says “%s” after %.0f seconds, and nothing listens for input", j.r.loading, j.r.waited.Seconds()))
	case j.r.moves || len(j.r.reacted) > 0:
		j.add(verdict.Moves, verdict.Passed, "")
	case !j.alive || j.s == nil || !j.r.ended:
		j.add(verdict.Moves, verdict.Unknown, "the check ended before the game could be played")
	case j.dead() != "":
		j.add(verdict.Moves, verdict.Failed, fmt.Sprintf("the button “%s” does nothing: neither it nor what surrounds it listens for clicks", j.dead()))
	case !j.s.listens(inputs...) && !j.s.operable():
		j.add(verdict.Moves, verdict.Failed, "nothing moves, and nothing listens for keys, touch or the pointer")
	default:
		j.add(verdict.Moves, verdict.Unknown, "nothing moved, neither by itself nor after inputs")
	}
}

// dead returns the text of a button that starts the game and does nothing.
func (j *judgement) dead() string {
	for _, c := range j.s.Controls {
		if c.Button && !c.Disabled && startWords().MatchString(c.Text) && !c.Live {
			return clean(c.Text, 40)
		}
	}
	return ""
}

var (
	saysKeys  = pattern.New(`(?i)\b(arrow keys?|wasd|w/?a/?s/?d|press (any key|space|enter|start|the|[a-z]\b)|space ?bar|use (the )?(arrows|keys|keyboard)|hit space)\b|[←→↑↓]`)
	saysTouch = pattern.New(`(?i)\b(tap|touch|swipe)\b`)
	saysMouse = pattern.New(`(?i)\b(click|mouse)\b`)
)

// blocked returns why no finger and no mouse can reach the game, or "".
func (j *judgement) blocked() string {
	what := j.s.covered()
	invisible := strings.HasSuffix(what, " (invisible)")
	if what == "" || !invisible && (j.r.moves || len(j.r.reacted) > 0) {
		return ""
	}
	return fmt.Sprintf("%s lies over everything that can be pressed and takes every input", what)
}

// played decides about one kind of input.
func (j *judgement) played(name verdict.Name, kinds []string, what string) bool {
	switch {
	case name != verdict.Keys && j.alive && j.s != nil && j.r.ended && !j.r.reacted[name] && j.blocked() != "":
		j.add(name, verdict.Failed, j.blocked())
	case j.r.reacted[name]:
		j.add(name, verdict.Passed, "")
	case !j.alive || j.s == nil || !j.r.ended:
		j.add(name, verdict.Unknown, "the check ended before it could be tried")
	case j.s.listens(kinds...) && j.r.moves && len(j.s.Lib) == 0:
		j.add(name, verdict.Passed, "")
	case j.s.listens(kinds...) || j.s.operable():
		j.add(name, verdict.Unknown, "it listens for "+what+"; whether it reacts could not be seen")
	default:
		return false
	}
	return true
}

func (j *judgement) keys() {
	if j.e.screen != verdict.Desktop || j.played(verdict.Keys, []string{"key"}, "keys") {
		return
	}
	switch {
	case j.s.says(saysKeys()) && !j.s.listens("pad"):
		j.add(verdict.Keys, verdict.Failed, "its text names keys, but nothing listens for the keyboard")
	default:
		j.add(verdict.Keys, verdict.Unknown, "it does not listen for keys")
	}
}

func (j *judgement) touch() {
	if j.e.screen != verdict.Phone {
		return
	}
	if j.mouseOnly() {
		j.add(verdict.Touch, verdict.Failed, "it listens for the mouse only and reacts to it, but not to a finger: listen for pointer or touch events")
		return
	}
	if j.played(verdict.Touch, pointing, "touch") {
		return
	}
	switch {
	case j.s.listens("tilt", "pad"):
		j.add(verdict.Touch, verdict.Unknown, "it does not listen for touch")
	case j.s.says(saysTouch()):
		j.add(verdict.Touch, verdict.Failed, "its text asks for touch, but nothing listens for touch, pointer or click")
	case j.s.listens("key") && (!j.r.moves || j.s.says(saysKeys())):
		j.add(verdict.Touch, verdict.Failed, "it listens for keys only: it cannot be played on a phone")
	default:
		j.add(verdict.Touch, verdict.Unknown, "it does not listen for touch")
	}
}

// mouseOnly reports whether the game listens for the mouse only, reacted to it on
// the desktop, and did not react to the same inputs by touch: a browser makes
// mouse events of a tap, and none of a drag.
func (j *judgement) mouseOnly() bool {
	return j.alive && j.s != nil && j.r.ended && j.other != nil && j.other.reacted[verdict.Pointer] && !j.r.reacted[verdict.Touch] && !j.r.moves &&
		j.s.listens("mouse") && !j.s.listens("touch", "pointer", "click", "drag", "key", "tilt", "pad") && !j.s.operable()
}

func (j *judgement) pointer() {
	kinds := []string{"pointer", "mouse", "click", "drag", "wheel"}
	if j.e.screen != verdict.Desktop || j.played(verdict.Pointer, kinds, "the pointer") {
		return
	}
	switch {
	case j.s.listens("tilt", "pad", "key"):
		j.add(verdict.Pointer, verdict.Unknown, "it does not listen for the pointer")
	case j.s.listens("touch"):
		j.add(verdict.Pointer, verdict.Failed, "it listens for touch only: it cannot be played on a desktop")
	case j.s.says(saysMouse()):
		j.add(verdict.Pointer, verdict.Failed, "its text asks for clicks, but nothing listens for the pointer")
	default:
		j.add(verdict.Pointer, verdict.Unknown, "it does not listen for the pointer")
	}
}

func (j *judgement) responsive() {
	switch {
	case j.e.frozen:
		j.add(verdict.Responsive, verdict.Failed, fmt.Sprintf("the main thread computes without end: no answer for %.0f seconds", j.e.busy.Seconds()))
	case j.e.crashed != "" || j.e.silent || !j.r.opened:
		j.add(verdict.Responsive, verdict.Unknown, "the main thread did not answer before the check ended")
	case j.e.busy > 2*time.Second:
		j.add(verdict.Responsive, verdict.Passed, fmt.Sprintf("the main thread was busy for %.1f seconds", j.e.busy.Seconds()))
	default:
		j.add(verdict.Responsive, verdict.Passed, "")
	}
}

func (j *judgement) memory() {
	switch {
	case j.e.grown > 0:
		j.add(verdict.Memory, verdict.Failed, fmt.Sprintf("the page takes more and more memory: it was ended at %d MiB", j.e.grown>>20))
	case j.e.leaks != "":
		j.add(verdict.Memory, verdict.Failed, j.e.leaks)
	case j.e.crashed != "":
		j.add(verdict.Memory, verdict.Unknown, "the page's process ended")
	case !j.r.opened:
		j.add(verdict.Memory, verdict.Unknown, "the page was not loaded in time")
	default:
		j.add(verdict.Memory, verdict.Passed, "")
	}
}

func (j *judgement) stays() {
	left := slices.Clone(j.e.left)
	asked := false
	if j.s != nil {
		for _, o := range j.s.Opened {
			if o.Active {
				asked = true
			} else {
				left = append(left, fault{text: "opens a window: " + short(o.URL)})
			}
		}
	}
	switch {
	case len(left) == 0 && (j.e.leftClick || asked):
		j.add(verdict.Stays, verdict.Unknown, "an input led away from the page")
	default:
		j.list(verdict.Stays, left)
	}
}

func (j *judgement) dialogs() {
	switch n := j.e.dialogN; {
	case n >= maxDialogs:
		j.add(verdict.Dialogs, verdict.Failed, fmt.Sprintf("it opens dialog after dialog (%d): %s", n, j.e.dialogs[0]))
	case n > 2:
		j.add(verdict.Dialogs, verdict.Unknown, fmt.Sprintf("it opens %d dialogs: %s", n, j.e.dialogs[0]))
	default:
		j.add(verdict.Dialogs, verdict.Passed, "")
	}
}

// conclude returns the verdict of all checks.
func conclude(checks []verdict.Check) verdict.Status {
	must := map[verdict.Name]int{verdict.Loads: 0, verdict.Draws: 0, verdict.Moves: 0, verdict.Responsive: 0}
	for _, c := range checks {
		if c.Status == verdict.Failed {
			return verdict.Failed
		}
		if _, ok := must[c.Name]; ok && c.Status == verdict.Passed {
			must[c.Name]++
		}
	}
	for _, n := range must {
		if n < len(verdict.Screens) {
			return verdict.Unknown
		}
	}
	return verdict.Passed
}
