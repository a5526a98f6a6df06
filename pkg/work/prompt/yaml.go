package prompt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// document returns the top-level mapping of a file.
func document(file []byte) (*yaml.Node, error) {
	if len(file) > MaxFileBytes {
		return nil, fmt.Errorf("the file is larger than %d bytes", MaxFileBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(file))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	} else if err != nil {
		return nil, fmt.Errorf("the file is not YAML: %w", err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file has more than one document")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("the file is not a mapping: use one key per line, such as model: haiku")
	}
	return doc.Content[0], nil
}

// decoder collects the errors of a file.
type decoder struct{ faults []string }

// node is a value of the file and its path for errors.
type node struct {
	*yaml.Node
	path string
}

func (d *decoder) fault(at *yaml.Node, path, format string, args ...any) {
	const most = 50
	if len(d.faults) >= most {
		return
	}
	// The errors are joined by semicolons, so none may contain one.
	text := strings.NewReplacer("; ", ", ", "\n", ", ").Replace(fmt.Sprintf(format, args...))
	switch {
	case at != nil && path != "":
		text = fmt.Sprintf("%s (line %d): %s", path, at.Line, text)
	case path != "":
		text = path + ": " + text
	}
	d.faults = append(d.faults, text)
}

func (d *decoder) wrong(n node, format string, args ...any) { d.fault(n.Node, n.path, format, args...) }

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// pair is a member of a mapping.
type pair struct {
	key   string
	value node
}

// pairs returns the members of a mapping in the order of the file.
func (d *decoder) pairs(n node) (all []pair) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, "must be a mapping")
		return nil
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		path := join(n.path, k.Value)
		switch {
		case k.Kind != yaml.ScalarNode || k.Tag == "!!merge":
			d.fault(k, n.path, "has a key that is not a plain name")
		case v.Kind == yaml.AliasNode:
			d.fault(v, path, "must not be an alias: repeat the value")
		case seen[k.Value]:
			d.fault(k, path, "is a duplicate")
		default:
			all = append(all, pair{k.Value, node{v, path}})
		}
		seen[k.Value] = true
	}
	return all
}

// optional stores the member key in *into, if there is one.
func optional[T any](m map[string]node, key string, into *T, read func(node) T) {
	if v, ok := m[key]; ok {
		*into = read(v)
	}
}

// require reports the missing members of n.
func (d *decoder) require(n node, m map[string]node, keys ...string) {
	for _, key := range keys {
		if _, ok := m[key]; !ok {
			d.fault(n.Node, join(n.path, key), "is missing")
		}
	}
}

// members returns the members of a mapping and reports unknown ones.
func (d *decoder) members(n node, known ...string) map[string]node {
	m := map[string]node{}
	for _, p := range d.pairs(n) {
		if !slices.Contains(known, p.key) {
			d.wrong(p.value, "is unknown here: use %s", strings.Join(known, ", "))
			continue
		}
		m[p.key] = p.value
	}
	return m
}

func (d *decoder) items(n node) (all []node) {
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, "must be a list: use [a, b]")
		return nil
	}
	for i, item := range n.Content {
		one := node{item, fmt.Sprintf("%s[%d]", n.path, i)}
		if item.Kind == yaml.AliasNode {
			d.wrong(one, "must not be an alias: repeat the value")
			continue
		}
		all = append(all, one)
	}
	return all
}

func (d *decoder) text(n node) string {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		d.wrong(n, "must be a string: put it in quotes")
		return ""
	}
	return n.Value
}

func (d *decoder) texts(n node) (all []string) {
	for _, item := range d.items(n) {
		s := d.text(item)
		if s == "" {
			d.wrong(item, "must not be empty")
		}
		all = append(all, s)
	}
	return all
}

func (d *decoder) truth(n node) (v bool) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || n.Decode(&v) != nil {
		d.wrong(n, "must be true or false")
	}
	return v
}

func (d *decoder) whole(least, most int) func(node) int {
	return func(n node) (v int) {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&v) != nil || v < least || v > most {
			d.wrong(n, "must be a whole number between %d and %d", least, most)
			return least
		}
		return v
	}
}

func (d *decoder) duration(least, most time.Duration) func(node) time.Duration {
	return func(n node) time.Duration {
		v, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil || v < least || v > most {
			d.wrong(n, "must be a duration between %v and %v with its unit, such as 10s", least, most)
			return least
		}
		return v
	}
}

// value returns a value with the types of encoding/json.
func (d *decoder) value(n node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for _, p := range d.pairs(n) {
			m[p.key] = d.value(p.value)
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range d.items(n) {
			list = append(list, d.value(item))
		}
		return list
	}
	switch n.Tag {
	case "!!str":
		return n.Value
	case "!!bool":
		return d.truth(n)
	case "!!int", "!!float":
		var f float64
		if n.Decode(&f) == nil && f-f == 0 {
			return f
		}
	}
	d.wrong(n, "must be a string, a number, true, false, a list or a mapping")
	return ""
}
