package term

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes foreign text safe to show on one line. It drops escape sequences,
// control characters and characters that reorder text (the bidirectional
// overrides). Line breaks and tabs become blanks, and bytes that are not UTF-8
// become U+FFFD. The result contains no control character, and cleaning it again
// changes nothing.
func Clean(s string) string {
	if isClean(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\n' || r == '\t' || r == '\u2028' || r == '\u2029':
			b.WriteByte(' ')
		case r == '\r':
			// Half of a line break, or an attempt to overwrite the line.
			if i+size >= len(s) || s[i+size] != '\n' {
				b.WriteByte(' ')
			}
		case unicode.IsControl(r):
			size += sequence(s[i+size:], r)
		case reorders(r):
		default:
			b.WriteRune(r) // U+FFFD for an invalid byte
		}
		i += size
	}
	return b.String()
}

// cleanLines splits s into lines and cleans each. Trailing line breaks are
// dropped.
func cleanLines(s string) []string {
	lines := strings.Split(strings.TrimRight(s, "\r\n"), "\n")
	for i, line := range lines {
		lines[i] = Clean(strings.TrimRight(line, "\r"))
	}
	return lines
}

func isClean(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) || reorders(r) || r == '\u2028' || r == '\u2029' {
			return false
		}
	}
	return true
}

// reorders reports whether r changes the display order of its neighbours, which
// can make text read as something else.
func reorders(r rune) bool {
	return r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' || r == '\u200e' || r == '\u200f' || r == '\u061c'
}

// sequence returns how many bytes of rest belong to the escape sequence that
// the control character r starts. Only the introducer of an incomplete sequence
// is dropped, so that it cannot hide the text after it.
func sequence(rest string, r rune) int {
	switch r {
	case '\x1b':
		if rest == "" {
			return 0
		}
		switch c := rest[0]; {
		case c == '[':
			// Only the introducer of an incomplete sequence is dropped.
			return 1 + controlSequence(rest[1:])
		case strings.IndexByte("]PX^_", c) >= 0:
			return 1 + controlString(rest[1:])
		default:
			return escape(rest)
		}
	case '\u009b': // CSI in one character
		return controlSequence(rest)
	case '\u0090', '\u0098', '\u009d', '\u009e', '\u009f': // DCS, SOS, OSC, PM, APC
		return controlString(rest)
	}
	return 0
}

// controlSequence returns the length of "parameters intermediates final" after CSI.
func controlSequence(s string) int {
	i := skip(s, 0, 0x30, 0x3f)
	i = skip(s, i, 0x20, 0x2f)
	if i < len(s) && s[i] >= 0x40 && s[i] <= 0x7e {
		return i + 1
	}
	return 0
}

// escape returns the length of "intermediates final" after ESC, such as a charset choice.
func escape(s string) int {
	i := skip(s, 0, 0x20, 0x2f)
	if i < len(s) && s[i] >= 0x30 && s[i] <= 0x7e {
		return i + 1
	}
	return 0
}

func skip(s string, i int, low, high byte) int {
	for i < len(s) && s[i] >= low && s[i] <= high {
		i++
	}
	return i
}

// controlString returns the length of text up to BEL or ST. Any other control
// character ends the attempt, which keeps Clean linear.
func controlString(s string) int {
	for i, r := range s {
		switch {
		case r == '\a':
			return i + 1
		case r == '\u009c':
			return i + len("\u009c")
		case r == '\x1b':
			if strings.HasPrefix(s[i:], "\x1b\\") {
				return i + 2
			}
			return 0
		case unicode.IsControl(r):
			return 0
		}
	}
	return 0
}
