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
// and with the members of set in front, ordered by name.
func without(body []byte, drop []string, set map[string][]byte) []byte {
	return rewrite(body, set, func(name string, value []byte) []byte {
		if _, ours := set[name]; ours || slices.Contains(drop, name) {
			return nil
		}
		return value
	})
}

// rewrite returns an object with the members of set in front, ordered by name, and
// with the values that edit returns for the others; nil leaves a member out. Every
// byte of a value that edit returns is unchanged, and so is every byte of an object
// that does not change.
func rewrite(object []byte, set map[string][]byte, edit func(name string, value []byte) []byte) []byte {
	var out []byte // nil until the first difference: objects are nested, and most do not change
	same := 0      // offset in object of the end of the members before that
	write := func(name, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(out, name...), value...)
	}
	if len(set) > 0 {
		size := len(object)
		for name, value := range set {
			size += len(name) + len(value) + len(`"":,`)
		}
		out = append(make([]byte, 0, size), '{')
	}
	for _, name := range sortedKeys(set) {
		write(append(quote(name), ':'), set[name])
	}
	for m := range gateway.Members(object) {
		old := object[m.Value:m.End]
		value := edit(m.Name, old)
		if out == nil {
			if bytes.Equal(value, old) {
				same = m.End
				continue
			}
			out = make([]byte, 0, len(object))
			if same == 0 {
				out = append(out, '{')
			}
			out = append(out, object[:same]...)
		}
		if value != nil {
			write(object[m.Start:m.Value], value)
		}
	}
	if out == nil {
		return object
	}
	return append(out, '}')
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
