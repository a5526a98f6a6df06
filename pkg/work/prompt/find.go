package prompt

import (
	"encoding/json"
	"iter"
	"strings"
)

// Bounds of the search for JSON in the model's text, which may be designed to be
// expensive.
const (
	maxCandidates = 64
	maxScans      = 8 // times the length of the text
)

// candidates returns the parts of text that look like complete JSON values
// starting with open, which is '{' or '[': those in fenced blocks first, then from
// left to right. Nested parts follow the outer one.
func candidates(text string, open byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		s := &search{open: open, tries: maxCandidates, left: maxScans * (len(text) + 1)}
		for block := range fenced(text) {
			if !s.scan(block, yield) {
				return
			}
		}
		s.scan(text, yield)
	}
}

// fenced returns the contents of ``` blocks.
func fenced(text string) iter.Seq[string] {
	const fence = "```"
	return func(yield func(string) bool) {
		for {
			_, rest, ok := strings.Cut(text, fence)
			if !ok {
				return
			}
			block, after, closed := strings.Cut(rest, fence)
			if !closed || !yield(block) {
				return
			}
			text = after
		}
	}
}

type search struct {
	open  byte
	tries int
	left  int // bytes that may still be scanned
}

// scan yields the candidates of text. It returns false at the end of the search.
func (s *search) scan(text string, yield func(string) bool) bool {
	for at := 0; ; at++ {
		next := strings.IndexByte(text[at:], s.open)
		if next < 0 {
			return true
		}
		at += next
		if s.tries--; s.tries < 0 || s.left <= 0 {
			return false
		}
		end := balanced(text[at:], s.left)
		s.left -= max(end, 0)
		if end < 0 {
			s.left -= len(text) - at
			continue
		}
		if !yield(text[at : at+end]) {
			return false
		}
	}
}

// balanced returns the length of the value at the start of text, according to the
// brackets outside of strings, or -1.
func balanced(text string, limit int) int {
	depth, quoted := 0, false
	for i := 0; i < len(text) && i < limit; i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// find returns the first JSON value in text that check accepts. The error is
// check's about the first value that it rejected, or errNoJSON.
func find(text string, open byte, check func(v any) (any, error)) (any, error) {
	failed := error(errNoJSON)
	for candidate := range candidates(text, open) {
		var v any
		if json.Unmarshal([]byte(candidate), &v) != nil {
			continue
		}
		checked, err := check(v)
		if err == nil {
			return checked, nil
		}
		if failed == error(errNoJSON) { // the outermost value is the most helpful
			failed = err
		}
	}
	return nil, failed
}
