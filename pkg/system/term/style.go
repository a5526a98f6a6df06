package term

import (
	"io"

	"github.com/charmbracelet/lipgloss"
	"github.com/muesli/termenv"
)

// Tone says what a piece of text means; the colours follow from it.
type Tone int

// The tones. Muted is for what a reader may skip, Accent for our own name and
// for what moves, Command for something to type.
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

// Mark is the symbol that opens a status line.
type Mark int

// The marks, in the order of how much they ask of the reader.
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

// paint returns text in the style of tone. Only the terminal's own sixteen
// colours are used: they fit the reader's theme, and nothing has to be asked
// of the terminal (a query of its background can block).
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
