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
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
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
	fields := new(Config).fields()
	values = map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(l.values)) {
		field, ok := fields[key]
		if !ok {
			faults = append(faults, fmt.Sprintf("unknown setting %q %s", key, l.source(key)))
			continue
		}
		v, err := convert(l.values[key], field.Type())
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v (%s)", key, err, l.source(key)))
			continue
		}
		values[key] = v
	}
	return values, faults
}

// convert converts v to type t. The environment and flags have text only, so text
// converts to every type. Nothing else is coerced: 2.5 is not 2, and true is not 1.
func convert(v any, t reflect.Type) (any, error) {
	text, isText := v.(string)
	switch {
	case v == nil:
		return nil, errors.New("it has no value; leave the line out for the default")
	case t == reflect.TypeFor[time.Duration]():
		// A bare number could mean seconds or nanoseconds.
		return scalar(v, time.ParseDuration, "is not a duration: write it with its unit, like 90s")
	case t == reflect.TypeFor[[]string]():
		return list(v)
	case t == reflect.TypeFor[[]upstream.Entry]():
		return entries[upstream.Entry](v, "name")
	case t == reflect.TypeFor[[]webhook.Entry]():
		return entries[webhook.Entry](v, "url")
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
		return scalar(v, parseTruth, "is neither true nor false")
	case t.Kind() == reflect.Int:
		return scalar(v, strconv.Atoi, "is not a whole number")
	case t.Kind() == reflect.Float64:
		if n, ok := v.(int); ok {
			return float64(n), nil
		}
		return scalar(v, parseNumber, "is not a number")
	}
	return nil, fmt.Errorf("a setting of type %v cannot be read", t)
}

// scalar returns v if it is a T, or what parse makes of it if it is text. must
// says what else is wrong.
func scalar[T any](v any, parse func(string) (T, error), must string) (any, error) {
	if t, ok := v.(T); ok {
		return t, nil
	}
	if s, ok := v.(string); ok {
		if t, err := parse(strings.TrimSpace(s)); err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("%q %s", fmt.Sprint(v), must)
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

// parseTruth is stricter than strconv.ParseBool: 1 and t are not true.
func parseTruth(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, strconv.ErrSyntax
	}
	return s == "true", nil
}

func parseNumber(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

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
