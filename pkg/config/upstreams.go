package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-viper/mapstructure/v2"

	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
)

// upstreams reads the list of upstreams: a YAML list, or JSON text from the
// environment. Unknown fields and fields of a wrong type are errors.
func upstreams(v any) (any, error) {
	if text, ok := v.(string); ok {
		if strings.TrimSpace(text) == "" {
			return []upstream.Entry{}, nil
		}
		var list []any
		if json.Unmarshal([]byte(text), &list) != nil {
			return nil, errors.New(`it is not a JSON list: write [{"name": "vertex", "kind": "vertex", …}]`)
		}
		v = list
	}
	items, ok := v.([]any)
	if !ok {
		return nil, errors.New("it is not a list: begin each upstream with a line \"- name: …\"")
	}
	entries, faults := make([]upstream.Entry, len(items)), []string(nil)
	for i, item := range items {
		decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
			Result: &entries[i], TagName: tag, ErrorUnused: true,
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
	return entries, nil
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
