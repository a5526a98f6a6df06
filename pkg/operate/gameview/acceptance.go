package gameview

import (
	"fmt"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Verdict returns the result of a check as one line.
func Verdict(a dreamcore.Acceptance) string {
	switch a.Verdict {
	case dreamcore.AcceptancePassed:
		return "The game plays on phone and desktop"
	case dreamcore.AcceptanceFailed:
		return "The game does not play well"
	}
	return "It is unknown whether the game plays"
}

// Findings returns the findings of a check, one line each: the place, the screens and
// the message, which comes from the page of a game. Findings that differ only in their
// screen are one.
func Findings(a dreamcore.Acceptance) (lines []string) {
	var order []string
	screens := map[string][]string{}
	for _, c := range a.Failed() {
		text := dreamcore.OneLine(c.Message, dreamcore.MaxAcceptanceText)
		if text == "" {
			text = "the check " + dreamcore.OneLine(c.Name, dreamcore.MaxAcceptanceText) + " has failed"
		}
		if where := dreamcore.OneLine(c.Where(), dreamcore.MaxAcceptanceText); where != "" {
			text = where + ": " + text
		}
		if !slices.Contains(order, text) {
			order = append(order, text)
		}
		if screen := dreamcore.OneLine(c.Screen, dreamcore.MaxAcceptanceText); screen != "" && !slices.Contains(screens[text], screen) {
			screens[text] = append(screens[text], screen)
		}
	}
	for _, text := range order {
		if on := screens[text]; len(on) > 0 {
			text = fmt.Sprintf("%s (%s)", text, strings.Join(on, ", "))
		}
		lines = append(lines, term.Clean(text))
	}
	return lines
}

// ShowAcceptance shows the result of a check of a game.
func ShowAcceptance(p *term.Printer, a dreamcore.Acceptance) {
	switch a.Verdict {
	case dreamcore.AcceptancePassed:
		p.Success(Verdict(a))
	case dreamcore.AcceptanceFailed:
		p.Status(term.Warned, Verdict(a))
		for _, line := range Findings(a) {
			p.Status(term.Warned, line)
		}
	default:
		p.Status(term.Note, Verdict(a), term.Clean(a.Reason))
	}
}
