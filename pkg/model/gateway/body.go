package gateway

import (
	"encoding/json"
	"errors"
	"iter"
	"strconv"
)

// peek is what the gateway must know of a request body.
type peek struct {
	model  string // "" where there is none
	stream bool
	output int64 // max_tokens: how long the answer may become; 0 where it is not said
}

var (
	errNotObject = errors.New("the body must be one JSON object")
	errDuplicate = errors.New("the body has a member twice: model, stream, max_tokens")
	errModelType = errors.New("model must be a string")
	errModelLong = errors.New("the name of the model is too long")
)

// maxModel bounds the name of a model, which books and logs keep: the longest
// is an ARN of Bedrock.
const maxModel = 2048

// peekBody reads the members model, stream and max_tokens of a JSON object. The body goes
// out unchanged, so it must not mean one thing here and another to the API:
// names are compared exactly (encoding/json folds case) and may not come twice
// (parsers differ in which one counts). It copies nothing, since bodies are large.
func peekBody(body []byte) (p peek, err error) {
	if s := (scanner{b: body}); !json.Valid(body) || s.first() != '{' {
		return p, errNotObject
	}
	var hasModel, hasStream, hasOutput bool
	for m := range Members(body) {
		value := body[m.Value:m.End]
		switch m.Name {
		case "model":
			if hasModel {
				return p, errDuplicate
			}
			hasModel = true
			if p.model, err = modelName(value); err != nil {
				return p, err
			}
		case "stream":
			if hasStream {
				return p, errDuplicate
			}
			hasStream = true
			p.stream = string(value) == "true"
		case "max_tokens":
			if hasOutput {
				return p, errDuplicate
			}
			hasOutput = true
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
				p.output = min(max(n, 0), maxTokens)
			} // what is no number the API refuses itself
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

// Member is a member of a JSON object and its place there.
type Member struct {
	Name              string // "" for one that is longer than any name of interest
	Start, Value, End int    // where its name begins, its value, and what follows
}

// Members steps through the members of the object that body is, without
// copying. The body must be valid JSON, as that of a Call is; one that is no
// object has no members.
func Members(body []byte) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		s := scanner{b: body}
		if s.first() != '{' {
			return
		}
		s.i++
		for {
			// Valid JSON: what is not the end of the object is a member.
			if s.space(); s.b[s.i] == '}' {
				return
			}
			m := Member{Start: s.i}
			m.Name = memberName(s.value())
			s.space() // the colon counts as space
			m.Value = s.i
			s.value()
			if m.End = s.i; !yield(m) {
				return
			}
		}
	}
}

// Elements steps through the elements of a list in valid JSON and the places
// where they begin. What is no list has none.
func Elements(list []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		s := scanner{b: list}
		if s.first() != '[' {
			return
		}
		s.i++
		for {
			if s.space(); s.b[s.i] == ']' {
				return
			}
			if at := s.i; !yield(at, s.value()) {
				return
			}
		}
	}
}

// memberName decodes a quoted name, or returns "" for one that is longer than
// any name of interest, even if that were written in escapes only.
func memberName(quoted []byte) string {
	var name string
	if len(quoted) > len(`"anthropic_version"`)*len(`\u0000`) || json.Unmarshal(quoted, &name) != nil {
		return ""
	}
	return name
}

// scanner steps through JSON that json.Valid has seen.
type scanner struct {
	b []byte
	i int
}

// first steps to the first value and returns how it begins.
func (s *scanner) first() byte {
	s.space()
	return s.b[s.i]
}

// space skips what may stand between two values.
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
