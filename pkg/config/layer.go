package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/knadh/koanf/parsers/yaml"

	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
)

// tag names the setting of a field of Config.
const tag = "koanf"

// layer is one source of settings.
type layer struct {
	values map[string]any          // by key
	source func(key string) string // "in FILE", for errors
}

// typed returns the values with the types of Config. Unknown settings and values
// of a wrong type are left out and returned as faults.
func (l layer) typed() (values map[string]any, faults []string) {
	types := settingTypes()
	values = map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(l.values)) {
		t, ok := types[key]
		if !ok {
			faults = append(faults, fmt.Sprintf("unknown setting %q %s", key, l.source(key)))
			continue
		}
		v, err := convert(l.values[key], t)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v (%s)", key, err, l.source(key)))
			continue
		}
		values[key] = v
	}
	return values, faults
}

// settingTypes returns the type of each setting by key.
func settingTypes() map[string]reflect.Type {
	types := map[string]reflect.Type{}
	for f := range reflect.TypeFor[Config]().Fields() {
		types[f.Tag.Get(tag)] = f.Type
	}
	return types
}

// convert converts v to type t. The environment and flags have text only, so text
// converts to every type. Nothing else is coerced: 2.5 is not 2, and true is not 1.
func convert(v any, t reflect.Type) (any, error) {
	text, isText := v.(string)
	switch {
	case v == nil:
		return nil, errors.New("it has no value; leave the line out for the default")
	case t == reflect.TypeFor[time.Duration]():
		return duration(v)
	case t == reflect.TypeFor[[]string]():
		return list(v)
	case t == reflect.TypeFor[[]upstream.Entry]():
		return upstreams(v)
	case t == reflect.TypeFor[Variables]():
		return variables(v)
	case t == reflect.TypeFor[map[string]string]():
		return words(v)
	case t.Kind() == reflect.String:
		if !isText {
			return nil, fmt.Errorf("%v is not text; put it into quotes", v)
		}
		return text, nil
	case t.Kind() == reflect.Bool:
		return truth(v)
	case t.Kind() == reflect.Int:
		return integer(v)
	case t.Kind() == reflect.Float64:
		return number(v)
	}
	return nil, fmt.Errorf("a setting of type %v cannot be read", t)
}

// duration requires a unit: a bare number could mean seconds or nanoseconds.
func duration(v any) (any, error) {
	if d, ok := v.(time.Duration); ok {
		return d, nil
	}
	if s, ok := v.(string); ok {
		if d, err := time.ParseDuration(strings.TrimSpace(s)); err == nil {
			return d, nil
		}
	}
	return nil, fmt.Errorf("%q is not a duration: write it with its unit, like 90s", fmt.Sprint(v))
}

func list(v any) (any, error) {
	items := []string{} // not nil: an empty list is a value
	switch v := v.(type) {
	case []string:
		items = v
	case string:
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	case []any:
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not text; put it into quotes", item)
			}
			items = append(items, s)
		}
	default:
		return nil, fmt.Errorf("%v is not a list: write [a, b]", v)
	}
	return items, nil
}

func truth(v any) (any, error) {
	switch fmt.Sprint(v) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return nil, fmt.Errorf("%q is neither true nor false", fmt.Sprint(v))
}

func integer(v any) (any, error) {
	switch v := v.(type) {
	case int:
		return v, nil
	case string:
		if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%q is not a whole number", fmt.Sprint(v))
}

func number(v any) (any, error) {
	switch v := v.(type) {
	case int:
		return float64(v), nil
	case float64:
		return v, nil
	case string:
		if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("%q is not a number", fmt.Sprint(v))
}

// readFile reads the named file, or the one in the state directory if it exists.
func readFile(named, state string) (layer, error) {
	file := named
	if file == "" {
		file = filepath.Join(state, FileName)
	}
	l := layer{source: func(string) string { return "in " + file }}
	raw, err := os.ReadFile(file)
	switch {
	case err == nil:
	case named == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)):
		return l, nil
	case named == "" && errors.Is(err, fs.ErrPermission):
		return l, nil // a state directory of root: commands that need it report that
	default:
		return l, invalid(err, "name a readable YAML file with --config", "the configuration %s cannot be read", file)
	}
	if severalDocuments(raw) {
		return l, invalid(nil, "remove the line --- and what follows it", "the configuration %s has more than one document", file)
	}
	if l.values, err = yaml.Parser().Unmarshal(raw); err != nil {
		return l, invalid(err, "write one setting on each line, like timeout: 5m", "the configuration %s is not YAML", file)
	}
	return l, nil
}

// severalDocuments reports whether raw has content before and after a document
// marker: the parser would silently ignore the second document.
func severalDocuments(raw []byte) bool {
	content, ended := false, false
	for line := range bytes.Lines(raw) {
		line = bytes.TrimRight(line, " \t\r\n")
		mark := bytes.HasPrefix(line, []byte("---")) || bytes.HasPrefix(line, []byte("..."))
		if mark {
			ended = content
			line = bytes.TrimLeft(line[len("---"):], " \t")
		}
		if len(line) == 0 || line[0] == '#' || line[0] == '%' {
			continue
		}
		if ended {
			return true
		}
		content = true
	}
	return false
}
