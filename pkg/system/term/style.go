package term

import (
	"io"

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

// Symbol returns the character of m; all are one column wide.
func (m Mark) Symbol() string {
	switch m {
	case Working:
		return "…"
	case Skipped:
		return "–"
	case Done:
		return "✓"
	case Warned:
		return "!"
	case Failed:
		return "✗"
	}
	return "•"
}

// Tone returns the tone that m is shown in.
func (m Mark) Tone() Tone {
	switch m {
	case Done:
		return Good
	case Warned:
		return Caution
	case Failed:
		return Bad
	}
	return Muted
}

// paint returns text in the style of tone. It uses only the terminal's sixteen
// colours: they fit the reader's theme, and need no query of the terminal's
// background, which can block.
func paint(tone Tone, text string) string {
	r := lipgloss.NewRenderer(io.Discard, termenv.WithProfile(termenv.ANSI), termenv.WithTTY(true))
	r.SetColorProfile(termenv.ANSI)
	s := r.NewStyle()
	switch tone {
	case Strong:
		s = s.Bold(true)
	case Muted:
		s = s.Faint(true)
	case Accent:
		s = s.Foreground(lipgloss.Color("5"))
	case Command:
		s = s.Foreground(lipgloss.Color("6"))
	case Good:
		s = s.Foreground(lipgloss.Color("2"))
	case Caution:
		s = s.Foreground(lipgloss.Color("3"))
	case Bad:
		s = s.Foreground(lipgloss.Color("1")).Bold(true)
	default:
		return text
	}
	return s.Render(text)
}
