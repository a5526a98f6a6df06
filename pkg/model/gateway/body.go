package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strconv"
)

// peek holds the members of a request body that the gateway needs.
type peek struct {
	model  string // "" if missing
	stream bool
	output int64 // max_tokens, the limit of the answer; 0 if missing
}

var (
	errNotObject = errors.New("the body must be one JSON object")
	errDuplicate = errors.New("the body has a duplicate member: model, stream or max_tokens")
	errModelType = errors.New("model must be a string")
	errModelLong = errors.New("the name of the model is too long")
)

// maxModel bounds the name of a model, which the ledger and logs store: the
// longest is an ARN of Bedrock.
const maxModel = 2048

// peekBody reads the members model, stream and max_tokens of a JSON object. The
// body is sent unchanged, so the gateway and the API must interpret it alike:
// names are compared exactly (encoding/json folds case) and must not be repeated
// (parsers differ in which one counts). It copies nothing, since bodies are
// large.
func peekBody(body []byte) (p peek, err error) {
	if s := (scanner{b: body}); !json.Valid(body) || s.first() != '{' {
		return p, errNotObject
	}
	seen := map[string]bool{}
	for m := range Members(body) {
		value := body[m.Value:m.End]
		if !slices.Contains([]string{"model", "stream", "max_tokens"}, m.Name) {
			continue
		}
		if seen[m.Name] {
			return p, errDuplicate
		}
		seen[m.Name] = true
		switch m.Name {
		case "model":
			if p.model, err = modelName(value); err != nil {
				return p, err
			}
		case "stream":
			p.stream = string(value) == "true"
		case "max_tokens":
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
				p.output = min(max(n, 0), maxTokens)
			} // the API itself rejects a value that is not a number
		}
	}
	return p, nil
}

func modelName(value []byte) (name string, err error) {
	if len(value) > len(`""`)+maxModel*len(`\u0000`) {
		return "", errModelLong
	}
	if value[0] != '"' || json.Unmarshal(value, &name) != nil {
		return "", errModelType
	}
	if len(name) > maxModel {
		return "", errModelLong
	}
	return name, nil
}

// Member is a member of a JSON object and its position there.
type Member struct {
	Name              string // "" if it is longer than any name of interest
	Start, Value, End int    // offsets of the name, of the value, and behind it
}

// Members iterates over the members of the JSON object in body, without
// copying. The body must be valid JSON, like the body of a Call; any other value
// than an object has no members.
func Members(body []byte) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		s := scanner{b: body}
		for start := range s.each('{', '}') {
			m := Member{Name: memberName(s.value()), Start: start}
			s.space() // also skips the colon
			m.Value = s.i
			s.value()
			if m.End = s.i; !yield(m) {
				return
			}
		}
	}
}

// Elements iterates over the elements of a list in valid JSON, with their
// offsets. Any other value than a list has no elements.
func Elements(list []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		s := scanner{b: list}
		for at := range s.each('[', ']') {
			if !yield(at, s.value()) {
				return
			}
		}
	}
}

// memberName decodes a quoted name. It returns "" if the name is longer than any
// name of interest could be, even if written in escapes only.
func memberName(quoted []byte) string {
	const longest = len(`"anthropic_version"`)
	if bytes.IndexByte(quoted, '\\') < 0 && len(quoted) <= longest {
		return string(quoted[1 : len(quoted)-1])
	}
	var name string
	if len(quoted) > longest*len(`\u0000`) || json.Unmarshal(quoted, &name) != nil {
		return ""
	}
	return name
}

// scanner steps through JSON that json.Valid has accepted.
type scanner struct {
	b []byte
	i int
}

// first skips to the next value and returns its first byte.
func (s *scanner) first() byte {
	s.space()
	return s.b[s.i]
}

// each iterates over the items between two brackets at the current position: the
// values of a list, or the names of members, with their offsets. The loop must step
// over each of them, and over the value of a member.
func (s *scanner) each(open, end byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		if s.first() != open {
			return
		}
		for s.i++; s.first() != end; {
			if !yield(s.i) {
				return
			}
		}
		s.i++
	}
}

// space skips white space and separators.
func (s *scanner) space() {
	for {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n', ',', ':':
			s.i++
		default:
			return
		}
	}
}

// value steps over one value and returns it.
func (s *scanner) value() []byte {
	start, depth := s.i, 0
	for {
		switch c := s.b[s.i]; c {
		case '"':
			s.quoted()
		case '{', '[':
			depth++
			s.i++
		case '}', ']':
			depth--
			s.i++
		default:
			if depth == 0 {
				s.literal()
			} else {
				s.i++
			}
		}
		if depth == 0 {
			return s.b[start:s.i]
		}
	}
}

func (s *scanner) quoted() {
	for s.i++; s.b[s.i] != '"'; s.i++ {
		if s.b[s.i] == '\\' {
			s.i++
		}
	}
	s.i++
}

// literal steps over a number, true, false or null.
func (s *scanner) literal() {
	for {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n', ',', '}', ']':
			return
		}
		s.i++
	}
}
