package upstream

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// maxModelName bounds the name of a model: an ARN of Bedrock has up to 2048.
const maxModelName = 2048

// withModel returns body with its model replaced. Every other byte stays: what
// the API calls unknown is not ours to understand. The gateway has refused
// bodies that name a model twice.
func withModel(body []byte, model string) []byte {
	for m := range gateway.Members(body) {
		if m.Name == "model" {
			name := quote(model)
			out := make([]byte, 0, len(body)+len(name))
			out = append(append(out, body[:m.Value]...), name...)
			return append(out, body[m.End:]...)
		}
	}
	return body
}

// without returns the object body with the members of set in front, in the
// order of their names, and without its own members of these names and of
// those in drop. The other members stay as they are, byte by byte.
func without(body []byte, drop []string, set map[string][]byte) []byte {
	size := len(body) + 2
	for name, value := range set {
		size += len(name) + len(value) + 4
	}
	out := bytes.NewBuffer(make([]byte, 0, size))
	out.WriteByte('{')
	comma := func() {
		if out.Len() > 1 {
			out.WriteByte(',')
		}
	}
	for _, name := range sortedKeys(set) {
		comma()
		out.Write(quote(name))
		out.WriteByte(':')
		out.Write(set[name])
	}
	for m := range gateway.Members(body) {
		if _, ours := set[m.Name]; ours || slices.Contains(drop, m.Name) {
			continue
		}
		comma()
		out.Write(body[m.Start:m.End])
	}
	out.WriteByte('}')
	return out.Bytes()
}

// has tells whether the object body has a member.
func has(body []byte, name string) bool {
	for m := range gateway.Members(body) {
		if m.Name == name {
			return true
		}
	}
	return false
}

// quote returns v as JSON.
func quote(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("upstream: encode text: " + err.Error()) // strings only
	}
	return b
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
