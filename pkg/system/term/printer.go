package term

import (
	"cmp"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/charmbracelet/x/ansi"
)

// Printer writes lines for people to one stream. Printers are cheap, so callers
// need not keep them.
type Printer struct {
	io       *IO
	w        io.Writer
	terminal bool
}

// Terminal reports whether the stream is a terminal.
func (p *Printer) Terminal() bool { return p.terminal }

// Columns returns the width of the stream's terminal, or 80 without a terminal.
func (p *Printer) Columns() int { return p.io.columns(p.w) }

// Style returns text, cleaned, in the style of tone.
func (p *Printer) Style(tone Tone, text string) string {
	text = Clean(text)
	if !p.terminal || !p.io.Color || text == "" {
		return text
	}
	return paint(tone, text)
}

// Println writes one line unchanged, without trailing blanks. Its parts must be
// constants or come from Style or Pad: they are not cleaned again.
func (p *Printer) Println(parts ...string) {
	line := strings.TrimRight(strings.Join(parts, ""), " ")
	// Errors are ignored; see the package documentation.
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
	if p.notes() {
		p.note(m, message, details)
		return
	}
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

// notes reports whether lines besides the result are for programs too: with
// JSON, every line of ErrOut is an object.
func (p *Printer) notes() bool { return p.io.JSON && p.w == p.io.ErrOut }

// levels are the levels of marks, as in the log.
var levels = map[Mark]string{Warned: "WARN", Failed: "ERROR"}

// note writes a status line as an object, like those of the log.
func (p *Printer) note(m Mark, message string, details []string) {
	line, err := encodeJSON(struct {
		Level   string   `json:"level"`
		Message string   `json:"msg"`
		Details []string `json:"details,omitempty"`
	}{cmp.Or(levels[m], "INFO"), Clean(message), slices.DeleteFunc(details, func(d string) bool { return d == "" })})
	if err == nil { // texts cannot fail to encode
		p.Println(string(line))
	}
}

// Success writes a line with ✓.
func (p *Printer) Success(message string, details ...string) { p.Status(Done, message, details...) }

// Failure writes a line with ✗; errors go through IO.RenderError.
func (p *Printer) Failure(message string, details ...string) { p.Status(Failed, message, details...) }

// Warning writes a line with !.
func (p *Printer) Warning(message string, details ...string) { p.Status(Warned, message, details...) }

// Info writes a line with •.
func (p *Printer) Info(message string, details ...string) { p.Status(Note, message, details...) }

// Heading writes a title, a muted remark unless it is empty, and an empty line.
func (p *Printer) Heading(title, remark string) {
	line := p.Style(Strong, title)
	if remark != "" {
		line += "  " + p.Style(Muted, remark)
	}
	p.Println(line)
	p.Println()
}

// Hint writes "→ text". In text of the form "run: COMMAND", the command is
// highlighted.
func (p *Printer) Hint(text string) {
	text = Clean(p.io.complete(text))
	if text != "" && p.notes() {
		p.note(Note, "hint", []string{text})
		return
	}
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

// Pad appends blanks to text up to width columns. Wide characters count as two
// columns, styles as zero.
func Pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text)))
}

// Fit returns text, cleaned, cut to width columns on a terminal. In a pipe nothing is
// cut: what reads it may need the rest.
func (p *Printer) Fit(text string, width int) string {
	text = Clean(text)
	if !p.terminal {
		return text
	}
	return Truncate(text, width)
}

// Truncate cuts text to width columns. The last column is "…" if text was cut.
func Truncate(text string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(text, width, "…")
}

// Wrap splits text into lines of at most width columns, between words if
// possible. It returns at least one line.
func Wrap(text string, width int) []string {
	lines := strings.Split(ansi.Wrap(text, max(1, width), ""), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return lines
}

// screen separates the progress line from other output, because both streams
// may be the same terminal.
type screen struct {
	mu   sync.Mutex
	live *Progress // guarded by mu; the progress line that is shown
}

// write erases the progress line, writes text, which must end in a newline, and
// draws the progress line again below it.
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
