package term

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	xterm "golang.org/x/term"
)

// The size of the screen, in columns and rows, if there is no terminal.
const (
	defaultWidth  = 80
	defaultHeight = 24
)

// IO holds the operator's streams. Its fields must not be changed after the
// first use; its methods are safe for concurrent use. An IO must not be copied.
type IO struct {
	In     io.Reader
	Out    io.Writer
	ErrOut io.Writer

	// These report which streams are terminals: prompts require In and ErrOut,
	// styles the stream that is written to.
	InTerminal  bool
	OutTerminal bool
	ErrTerminal bool

	Color   bool // styles on terminals
	Rewrite bool // terminals can redraw a line; false for TERM=dumb
	Width   int  // columns; 0 asks the terminal each time
	JSON    bool // programs read Out and ErrOut: every line is an object

	// Interval is the time between two lines of a Transfer that is not on a terminal; 0
	// means ten seconds.
	Interval time.Duration

	// CompleteHint is called with each hint and returns the one to show; may be
	// nil.
	CompleteHint func(hint string) string

	files  files
	screen screen
}

// complete returns a hint as it is shown.
func (t *IO) complete(hint string) string {
	if hint == "" || t.CompleteHint == nil {
		return hint
	}
	return t.CompleteHint(hint)
}

// files are the streams as files; nil in tests.
type files struct{ in, out, errOut *os.File }

// System returns the IO of a real process. getenv looks up environment
// variables; it is called for NO_COLOR, CLICOLOR and TERM only.
func System(in, out, errOut *os.File, getenv func(string) string) *IO {
	dumb := getenv("TERM") == "dumb"
	return &IO{
		In: in, Out: out, ErrOut: errOut,
		InTerminal:  isTerminal(in),
		OutTerminal: isTerminal(out),
		ErrTerminal: isTerminal(errOut),
		Color:       !dumb && getenv("NO_COLOR") == "" && getenv("CLICOLOR") != "0",
		Rewrite:     !dumb,
		files:       files{in: in, out: out, errOut: errOut},
	}
}

// MoveErr replaces ErrOut by f, which must lead to the same destination. It must
// not be called concurrently with printing.
func (t *IO) MoveErr(f *os.File) { t.ErrOut, t.files.errOut = f, f }

// Buffers returns an IO without a terminal that reads from in and writes to two
// buffers.
func Buffers(in string) (t *IO, out, errOut *bytes.Buffer) {
	out, errOut = new(bytes.Buffer), new(bytes.Buffer)
	return &IO{In: bytes.NewBufferString(in), Out: out, ErrOut: errOut}, out, errOut
}

func isTerminal(f *os.File) bool {
	return f != nil && xterm.IsTerminal(int(f.Fd()))
}

// Interactive reports whether the IO can prompt.
func (t *IO) Interactive() bool { return t.InTerminal && t.ErrTerminal }

// Stdout returns the printer of results.
func (t *IO) Stdout() *Printer {
	return &Printer{io: t, w: t.Out, terminal: t.OutTerminal}
}

// Stderr returns the printer of progress and errors.
func (t *IO) Stderr() *Printer {
	return &Printer{io: t, w: t.ErrOut, terminal: t.ErrTerminal}
}

// Human returns the printer for text that a person reads: Stdout, or Stderr
// when a program reads Stdout (JSON).
func (t *IO) Human() *Printer {
	if t.JSON {
		return t.Stderr()
	}
	return t.Stdout()
}

// WriteJSON writes v to Out as one JSON value on one line.
func (t *IO) WriteJSON(v any) error {
	line, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return t.WriteLine(line)
}

// WriteLine writes line and a newline to Out, unchanged, for programs.
func (t *IO) WriteLine(line []byte) error {
	b := make([]byte, 0, len(line)+1)
	b = append(append(b, line...), '\n')
	if err := t.screen.write(t.Out, b); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// encodeJSON returns v on one line, without a newline, and with <, > and &
// unescaped, because no browser reads it.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode output: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// columns returns the width of the terminal behind w.
func (t *IO) columns(w io.Writer) int {
	if t.Width > 0 {
		return t.Width
	}
	width, _ := t.size(w)
	return width
}

// rows returns the height of the terminal behind w.
func (t *IO) rows(w io.Writer) int {
	_, height := t.size(w)
	return height
}

func (t *IO) size(w io.Writer) (width, height int) {
	for _, f := range []*os.File{t.files.out, t.files.errOut} {
		if f == nil || w != io.Writer(f) {
			continue
		}
		if width, height, err := xterm.GetSize(int(f.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return defaultWidth, defaultHeight
}
