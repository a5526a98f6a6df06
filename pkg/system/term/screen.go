package term

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	xterm "golang.org/x/term"
)

// Raw gives the terminal to a program elsewhere: keys are not echoed and have no
// meaning here, Ctrl-C included. restore must be called; it may be called more than
// once. Standard input must be a terminal.
func (t *IO) Raw() (restore func(), err error) {
	if !t.InTerminal || t.files.in == nil {
		return nil, fmt.Errorf("standard input is not a terminal")
	}
	fd := int(t.files.in.Fd())
	before, err := xterm.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = xterm.Restore(fd, before) }, nil // fails only if the terminal is gone
}

// WindowSize returns the size of the terminal of standard input.
func (t *IO) WindowSize() (columns, rows int) {
	if t.files.in != nil {
		if columns, rows, err := xterm.GetSize(int(t.files.in.Fd())); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
	}
	return defaultWidth, defaultHeight
}

// resetScreen undoes what a program may have switched on through a Screen: colors,
// a hidden or blinking cursor, the second screen, reports of the mouse and of the
// focus, bracketed paste, other characters and keys, insertion, a scrolling region.
// Every mode of the two lists below has its place here.
const resetScreen = "\x0f\x1b(B\x1b)B\x1b[0m\x1b[?2026l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l" +
	"\x1b[?1l\x1b[?7h\x1b[?12l\x1b[?25h\x1b[4l\x1b[0 q\x1b>\x1b7\x1b[r\x1b8\x1b[?47l\x1b[?1047l\x1b[?1049l"

// The modes that a program may set. Others lock the keyboard, change what keys send,
// or make the terminal send reports that Close could not stop.
var (
	screenModes  = []string{"4"}
	privateModes = []string{"1", "7", "12", "25", "47", "1000", "1002", "1003", "1004", "1006", "1047", "1048", "1049", "2004", "2026"}
)

// Screen shows the output of an untrusted program that has the terminal to itself,
// such as a shell or an editor. It passes text, colors and movements, and drops what
// reaches further: the clipboard, the title, printers, files, and all that the
// terminal answers, since answers are typed into whatever reads them. Its Close makes
// the terminal as it was, and does not close w.
type Screen struct {
	w       io.Writer
	state   screenState
	pending []byte // of the sequence or the character that is being read
	used    bool   // a sequence has been passed
}

type screenState int

const (
	inText     screenState = iota
	inEscape               // after ESC
	inControl              // after ESC [
	inCharset              // after ESC ( and the like
	inString               // after ESC ] and the like: dropped up to its end
	inStringEs             // after ESC in a string
)

// NewScreen returns a Screen on a terminal.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w} }

// maxSequence bounds a sequence in bytes. Longer ones are dropped.
const maxSequence = 64

// Write implements io.Writer.
func (s *Screen) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+maxSequence)
	for _, b := range p {
		out = s.next(out, b)
	}
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close restores the terminal's modes if the program may have changed them.
func (s *Screen) Close() error {
	if !s.used {
		return nil
	}
	_, err := io.WriteString(s.w, resetScreen)
	return err
}

// next reads one byte and appends its visible form to out.
func (s *Screen) next(out []byte, b byte) []byte {
	switch {
	case b == 0x18 || b == 0x1a: // they cancel every sequence
		s.state, s.pending = inText, s.pending[:0]
		return out
	case b == 0x1b && s.state == inString:
		s.state = inStringEs
		return out
	case b == 0x1b:
		s.state, s.pending = inEscape, s.pending[:0]
		return out
	}
	switch s.state {
	case inEscape:
		return s.escape(out, b)
	case inControl:
		return s.control(out, b)
	case inCharset:
		s.state = inText
		if b == '0' || b == 'A' || b == 'B' {
			out = s.pass(out, "\x1b"+string(s.pending)+string(rune(b)))
		}
		s.pending = s.pending[:0]
		return out
	case inString:
		if b == 0x07 {
			s.state = inText
		}
		return out
	case inStringEs:
		s.state = inText // ESC \ ends it, and ESC with anything else ends it, too
		if b != '\\' {
			s.state = inEscape
			return s.escape(out, b)
		}
		return out
	}
	return s.character(out, b)
}

// escape reads the byte after ESC.
func (s *Screen) escape(out []byte, b byte) []byte {
	s.state = inText
	switch {
	case b == '[':
		s.state = inControl
	case strings.IndexByte("]PX^_k", b) >= 0:
		s.state = inString
	case b == '(' || b == ')':
		s.state, s.pending = inCharset, append(s.pending[:0], b)
	case strings.IndexByte("78=>DEM", b) >= 0:
		out = s.pass(out, "\x1b"+string(rune(b)))
	case b < ' ':
		return s.character(out, b)
	}
	return out
}

// control reads a byte after ESC [.
func (s *Screen) control(out []byte, b byte) []byte {
	switch {
	case b >= 0x20 && b <= 0x3f:
		if len(s.pending) <= maxSequence {
			s.pending = append(s.pending, b)
		}
	case b >= 0x40 && b <= 0x7e:
		s.state = inText
		if harmless(s.pending, b) {
			out = s.pass(out, "\x1b["+string(s.pending)+string(rune(b)))
		}
		s.pending = s.pending[:0]
	default: // a control character or a foreign byte: the sequence is broken
		s.state, s.pending = inText, s.pending[:0]
		return s.character(out, b)
	}
	return out
}

// harmless reports whether a control sequence only draws. The parameters are numbers
// and separators, after "?" for private modes.
func harmless(parameters []byte, final byte) bool {
	if len(parameters) > maxSequence {
		return false
	}
	text := string(parameters)
	private := strings.HasPrefix(text, "?")
	switch {
	case final == 'q': // the form of the cursor
		form, ok := strings.CutSuffix(text, " ")
		return ok && numbers(form)
	case final == 'h' || final == 'l':
		if private {
			return among(text[1:], privateModes)
		}
		return among(text, screenModes)
	case private:
		return numbers(text[1:]) && strings.IndexByte("JK", final) >= 0
	}
	return numbers(text) && strings.IndexByte("@ABCDEFGHIJKLMPSTXZ`abdefmrsu", final) >= 0
}

// maxNumber bounds a parameter in digits: some terminals repeat a character or scroll
// as often as they are told to.
const maxNumber = 4

// numbers reports whether text is numbers and separators.
func numbers(text string) bool {
	for number := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == ':' }) {
		if len(number) > maxNumber || strings.Trim(number, "0123456789") != "" {
			return false
		}
	}
	return true
}

// among reports whether each mode of text is in list.
func among(text string, list []string) bool {
	for mode := range strings.SplitSeq(text, ";") {
		if !slices.Contains(list, mode) {
			return false
		}
	}
	return true
}

// character reads a byte of text. Bytes that are no UTF-8, and the controls among its
// characters, are shown as question marks.
func (s *Screen) character(out []byte, b byte) []byte {
	if b < utf8.RuneSelf {
		if len(s.pending) > 0 {
			out, s.pending = append(out, '?'), s.pending[:0]
		}
		switch {
		case b >= ' ' && b != 0x7f, b >= 0x07 && b <= 0x0f: // from BEL to SI
			s.used = s.used || b == 0x0e // other characters
			out = append(out, b)
		case b != 0 && b != 0x7f:
			out = append(out, '?')
		}
		return out
	}
	if len(s.pending) > 0 && utf8.RuneStart(b) {
		out, s.pending = append(out, '?'), s.pending[:0]
	}
	s.pending = append(s.pending, b)
	if !utf8.FullRune(s.pending) {
		return out
	}
	if r, n := utf8.DecodeRune(s.pending); n == len(s.pending) && r != utf8.RuneError && r >= 0xa0 {
		out = append(out, s.pending...)
	} else {
		out = append(out, '?')
	}
	s.pending = s.pending[:0]
	return out
}

func (s *Screen) pass(out []byte, sequence string) []byte {
	s.used = true
	return append(out, sequence...)
}
