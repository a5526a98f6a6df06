package upstream

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// maxModelName bounds the name of a model: an ARN of Bedrock has up to 2048 bytes.
const maxModelName = 2048

// withModel returns body with its model replaced and every other byte unchanged,
// so that unknown members are forwarded. The gateway has rejected bodies with
// several models.
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

// without returns the object body without the members named in drop and in set,
// and with the members of set in front, ordered by name. Every byte of the other
// members is unchanged.
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

// quote returns v as JSON.
func quote(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("upstream: encode text: " + err.Error()) // cannot happen: strings only
	}
	return b
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
