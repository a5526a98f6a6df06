package browser

import (
	"fmt"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// fits judges whether the essential parts are on the screen: the largest canvas, and
// the controls.
func (j *judgement) fits() {
	s := j.s
	if s == nil || !j.alive || s.View[0] < 1 || s.View[1] < 1 {
		j.add(verdict.Fits, verdict.Unknown, "the page's layout could not be read")
		return
	}
	if message, sure := s.cutCanvas(); message != "" {
		if sure {
			j.add(verdict.Fits, verdict.Failed, message)
		} else {
			j.add(verdict.Fits, verdict.Unknown, message)
		}
		return
	}
	if s.Cut >= 3 && s.HiddenX && !s.listens("move", "wheel", "drag") {
		j.add(verdict.Fits, verdict.Failed, fmt.Sprintf("%d elements that can be pressed are beyond the right edge of the screen, and the page cannot be scrolled", s.Cut))
		return
	}
	if message, sure := s.cutControl(); message != "" {
		if sure {
			j.add(verdict.Fits, verdict.Failed, message)
		} else {
			j.add(verdict.Fits, verdict.Unknown, message)
		}
		return
	}
	j.add(verdict.Fits, verdict.Passed, "")
}

// cutCanvas returns how the largest canvas is cut off by the screen.
func (s *state) cutCanvas() (message string, sure bool) {
	var b [4]float64
	for _, c := range s.Canvases {
		if c[2]*c[3] > b[2]*b[3] {
			b = c
		}
	}
	w, h := s.View[0], s.View[1]
	if b[2]*b[3] < 0.1*w*h {
		return "", false
	}
	left, top := max(0, -b[0]), max(0, -b[1])
	right, bottom := max(0, b[0]+b[2]-w), max(0, b[1]+b[3]-h)
	// A picture that is cut at opposite sides alike covers the screen on purpose.
	switch across, down := left+right, top+bottom; {
	case across > 0.12*b[2] && !even(left, right):
		return fmt.Sprintf("the canvas is %.0f wide on a screen of %.0f: %.0f of it are outside", b[2], w, across), true
	case down > 0.2*b[3] && !even(top, bottom):
		return fmt.Sprintf("the canvas is %.0f high on a screen of %.0f: %.0f of it are outside", b[3], h, down), down > 0.35*b[3] || s.HiddenY
	case across > 0.12*b[2] || down > 0.2*b[3]:
		return "the canvas is larger than the screen", false
	}
	return "", false
}

// even reports whether two margins are alike.
func even(a, b float64) bool { return a > 0 && b > 0 && a < 2*b && b < 2*a }

// cutControl returns the control that is outside of the screen.
func (s *state) cutControl() (message string, sure bool) {
	for _, c := range s.Controls {
		if !c.Button || c.Disabled || s.seen(c.Box) {
			continue
		}
		x, y := c.Box[0]+c.Box[2]/2, c.Box[1]+c.Box[3]/2
		name := clean(c.Text, 40)
		if name == "" {
			name = c.ID
		}
		if !startWords().MatchString(c.Text) {
			continue
		}
		beyondX := x < 0 || x >= s.View[0]
		reachable := y >= s.View[1] && !s.HiddenY && y < s.Page[1] || x >= s.View[0] && !s.HiddenX && x < s.Page[0]
		return fmt.Sprintf("the button “%s” is outside of the screen", name), beyondX || !reachable
	}
	return "", false
}
