package term

import (
	"io"
	"strings"
	"sync"

	"github.com/charmbracelet/x/ansi"
)

// Printer writes lines for a person to one stream. Printers are cheap and may
// be made again at any time.
type Printer struct {
	io       *IO
	w        io.Writer
	terminal bool
}

func (t *IO) printer(w io.Writer, terminal bool) *Printer {
	return &Printer{io: t, w: w, terminal: terminal}
}

// Terminal tells whether a person watches the stream as it is written.
func (p *Printer) Terminal() bool { return p.terminal }

// Columns returns the width of the stream's terminal, 80 if there is none.
func (p *Printer) Columns() int { return p.io.columns(p.w) }

// Style returns text, cleaned, in the style of tone.
func (p *Printer) Style(tone Tone, text string) string {
	text = Clean(text)
	if !p.terminal || !p.io.Color || text == "" {
		return text
	}
	return paint(tone, text)
}

// Println writes one line as it is, without trailing blanks. Its parts must
// come from Style, Pad or be constants: they are not cleaned again.
func (p *Printer) Println(parts ...string) {
	line := strings.TrimRight(strings.Join(parts, ""), " ")
	// A failed write of human text has nobody to go to; see the package's doc.
	_ = p.io.screen.write(p.w, []byte(line+"\n"))
}

// Print writes text as plain lines, cleaned line by line.
func (p *Printer) Print(text string) {
	for _, line := range cleanLines(text) {
		p.Println(line)
	}
}

// Status writes "✓ message  detail · detail". Empty details are left out.
func (p *Printer) Status(m Mark, message string, details ...string) {
	p.Println(p.status(m, message, details))
}

func (p *Printer) status(m Mark, message string, details []string) string {
	line := p.Style(m.Tone(), m.Symbol()) + " "
	if m == Working || m == Skipped {
		line += p.Style(Muted, message)
	} else {
		line += p.Style(Normal, message)
	}
	var shown []string
	for _, d := range details {
		if d = Clean(d); d != "" {
			shown = append(shown, d)
		}
	}
	if len(shown) > 0 {
		line += "  " + p.Style(Muted, strings.Join(shown, " · "))
	}
	return line
}

// Success, Failure, Warning and Info are Status with the mark of that meaning.
func (p *Printer) Success(message string, details ...string) { p.Status(Done, message, details...) }

// Failure writes a line with ✗; errors go through IO.RenderError.
func (p *Printer) Failure(message string, details ...string) { p.Status(Failed, message, details...) }

// Warning writes a line with !.
func (p *Printer) Warning(message string, details ...string) { p.Status(Warned, message, details...) }

// Info writes a line with •.
func (p *Printer) Info(message string, details ...string) { p.Status(Note, message, details...) }

// Heading writes a title, with a muted remark if there is one, and an empty
// line.
func (p *Printer) Heading(title, remark string) {
	line := p.Style(Strong, title)
	if remark != "" {
		line += "  " + p.Style(Muted, remark)
	}
	p.Println(line)
	p.Println()
}

// Hint writes "→ text". Text of the form "run: COMMAND" shows the command as
// something to type.
func (p *Printer) Hint(text string) {
	text = Clean(text)
	if text == "" {
		return
	}
	line := p.Style(Muted, "→") + " "
	if command, ok := strings.CutPrefix(text, "run: "); ok {
		line += "run: " + p.Style(Command, command)
	} else {
		line += text
	}
	p.Println(line)
}

// Pair is one entry of a list of keys and values.
type Pair struct {
	Key   string
	Value string
	Tone  Tone // of the value
}

// Pairs writes aligned "  key  value" lines.
func (p *Printer) Pairs(pairs ...Pair) {
	width := 0
	for _, kv := range pairs {
		width = max(width, ansi.StringWidth(Clean(kv.Key)))
	}
	for _, kv := range pairs {
		p.Println("  ", Pad(p.Style(Muted, kv.Key), width), "  ", p.Style(kv.Tone, kv.Value))
	}
}

// Pad fills text with blanks up to width columns. Wide characters count as
// two columns, styles as none.
func Pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}

// Truncate cuts text to width columns, the last of them "…" where it was
// longer.
func Truncate(text string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(text, width, "…")
}

// Wrap splits text into lines of at most width columns, between words where it
// can. It returns one line at least.
func Wrap(text string, width int) []string {
	lines := strings.Split(ansi.Wrap(text, max(1, width), ""), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return lines
}

// screen keeps what is written apart from the progress line: both streams may
// be one terminal.
type screen struct {
	mu   sync.Mutex
	live *Progress // guarded by mu; the line that is on the terminal now
}

// write takes the progress line away, writes text, which ends in a newline,
// and puts the progress line back below it.
func (s *screen) write(w io.Writer, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != nil {
		s.live.erase()
		defer s.live.draw()
	}
	_, err := w.Write(text)
	return err
}
