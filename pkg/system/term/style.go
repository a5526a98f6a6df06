package term

import (
	"io"
	"sync"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
)

// Tone is the meaning of a piece of text, from which its colour follows.
type Tone int

// The tones. Muted is for less important text, Accent for the product's name and
// the spinner, Command for something to type.
const (
	Normal Tone = iota
	Strong
	Muted
	Accent
	Command
	Good
	Caution
	Bad
)

// Mark is the symbol at the start of a status line.
type Mark int

// The marks, in order of importance.
const (
	Note    Mark = iota // •
	Working             // …
	Skipped             // –
	Done                // ✓
	Warned              // !
	Failed              // ✗
)

// marks are the character of each mark, all one column wide, and its tone.
var marks = map[Mark]struct {
	symbol string
	tone   Tone
}{
	Note: {"•", Muted}, Working: {"…", Muted}, Skipped: {"–", Muted}, Done: {"✓", Good}, Warned: {"!", Caution}, Failed: {"✗", Bad},
}

// Symbol returns the character of m.
func (m Mark) Symbol() string { return marks[m].symbol }

// Tone returns the tone that m is shown in.
func (m Mark) Tone() Tone { return marks[m].tone }

// styles are the styles of the tones. They use only the terminal's sixteen
// colours: they fit the reader's theme, and need no query of the terminal's
// background, which can block.
var styles = sync.OnceValue(func() map[Tone]lipgloss.Style {
	r := lipgloss.NewRenderer(io.Discard, termenv.WithProfile(termenv.ANSI), termenv.WithTTY(true))
	r.SetColorProfile(termenv.ANSI)
	colour := func(c string) lipgloss.Style { return r.NewStyle().Foreground(lipgloss.Color(c)) }
	return map[Tone]lipgloss.Style{
		Strong: r.NewStyle().Bold(true), Muted: r.NewStyle().Faint(true), Accent: colour("5"),
		Command: colour("6"), Good: colour("2"), Caution: colour("3"), Bad: colour("1").Bold(true),
	}
})

// paint returns text in the style of tone.
func paint(tone Tone, text string) string {
	style, ok := styles()[tone]
	if !ok {
		return text
	}
	return style.Render(text)
}
