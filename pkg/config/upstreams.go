package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-viper/mapstructure/v2"
)

// entries reads a list of objects, such as the upstreams: a YAML list, or JSON text
// from the environment. Unknown fields and fields of a wrong type are errors. first
// is the first field of an object, for errors.
func entries[T any](v any, first string) (any, error) {
	if text, ok := v.(string); ok {
		if strings.TrimSpace(text) == "" {
			return []T{}, nil
		}
		var list []any
		if json.Unmarshal([]byte(text), &list) != nil {
			return nil, fmt.Errorf(`it is not a JSON list: write [{"%s": "…", …}]`, first)
		}
		v = list
	}
	items, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("it is not a list: begin each item with a line \"- %s: …\"", first)
	}
	all, faults := make([]T, len(items)), []string(nil)
	for i, item := range items {
		decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
			Result: &all[i], TagName: tag, ErrorUnused: true,
			MatchName:  func(key, field string) bool { return key == field },
			DecodeHook: mapstructure.StringToTimeDurationHookFunc(),
		})
		if err != nil {
			return nil, err
		}
		if err := decoder.Decode(item); err != nil {
			faults = append(faults, fmt.Sprintf("number %d: %s", i+1, decodeFault(err)))
		}
	}
	if len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "; "))
	}
	return all, nil
}

// decodeFault returns the findings of a decoder on one line.
func decodeFault(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSpace(strings.TrimLeft(strings.TrimSpace(line), "*"))
		if line != "" && !strings.HasSuffix(line, "error(s):") {
			lines = append(lines, strings.TrimPrefix(line, "'' "))
		}
	}
	return strings.Join(lines, ", ")
}
