package prompt

import (
	"encoding/json"
	"errors"
	"iter"
	"strings"
)

// Limits of the search for JSON in the model's text, which may be designed to be
// expensive.
const (
	maxCandidates = 64
	maxScans      = 8 // times the length of the text
)

// find returns the first JSON value in text that starts with open, which is '{' or
// '[', and that check accepts: in fenced blocks first, then from left to right.
// Nested values follow the outer one. The error is check's about the first value
// that it rejected, or errNoJSON.
func find(text string, open byte, check func(v any) (any, error)) (any, error) {
	failed := errNoJSON
	tries, left := maxCandidates, maxScans*(len(text)+1) // left is in bytes
	for part := range parts(text) {
		for at := 0; ; at++ {
			next := strings.IndexByte(part[at:], open)
			if next < 0 {
				break
			}
			at += next
			if tries--; tries < 0 || left <= 0 {
				return nil, failed
			}
			v, scanned, ok := decode(part[at:min(len(part), at+left)])
			left -= scanned
			if !ok {
				continue
			}
			checked, err := check(v)
			if err == nil {
				return checked, nil
			}
			if failed == errNoJSON { // the outermost value is the most helpful
				failed = err
			}
		}
	}
	return nil, failed
}

// decode returns the JSON value at the start of text, and the number of bytes that
// it has looked at.
func decode(text string) (v any, scanned int, ok bool) {
	dec := json.NewDecoder(strings.NewReader(text))
	err := dec.Decode(&v)
	if err == nil {
		return v, int(dec.InputOffset()), true
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return nil, int(syntax.Offset), false
	}
	return nil, len(text), false
}

// parts yields the contents of the ``` blocks of text, then text itself.
func parts(text string) iter.Seq[string] {
	const fence = "```"
	return func(yield func(string) bool) {
		for rest := text; ; {
			_, after, opened := strings.Cut(rest, fence)
			block, next, closed := strings.Cut(after, fence)
			if !opened || !closed {
				break
			}
			if !yield(block) {
				return
			}
			rest = next
		}
		yield(text)
	}
}
