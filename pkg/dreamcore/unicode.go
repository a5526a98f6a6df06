package dreamcore

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// replacementEscape is U+FFFD as a JSON escape. It has the same length as the
// escaped surrogate that it replaces.
const replacementEscape = `\ufffd`

// cleanUnicode replaces what strict JSON parsers reject in a valid JSON text:
// escaped unpaired surrogates, and bytes that are not UTF-8, in values and in
// keys at any depth. Every other byte is unchanged. It returns text itself if
// there is nothing to replace.
func cleanUnicode(text []byte) []byte {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	}
	if !bytes.Contains(text, []byte(`\u`)) {
		return text
	}
	clean := text
	// In valid JSON a backslash occurs only in strings, and starts an escape.
	for i := 0; i < len(text); {
		next := bytes.IndexByte(text[i:], '\\')
		if next < 0 {
			break
		}
		i += next
		r, ok := escapedUnit(text[i:])
		switch {
		case !ok:
			i += 2 // the backslash and the character that it escapes
		case !utf16.IsSurrogate(r):
			i += len(replacementEscape)
		default:
			if low, ok := escapedUnit(text[i+len(replacementEscape):]); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				i += 2 * len(replacementEscape)
				continue
			}
			if &clean[0] == &text[0] {
				clean = bytes.Clone(text)
			}
			i += copy(clean[i:], replacementEscape)
		}
	}
	return clean
}

// escapedUnit parses the \uXXXX escape at the start of text.
func escapedUnit(text []byte) (unit rune, ok bool) {
	if len(text) < len(replacementEscape) || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:len(replacementEscape)]), 16, 16)
	return rune(n), err == nil
}
