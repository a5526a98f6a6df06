package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// promptModels returns the default of prompt_models. An alias that a source leaves
// out keeps its model.
func promptModels() map[string]any {
	return map[string]any{"haiku": "claude-haiku-4-5-20251001", "sonnet": "claude-sonnet-4-5-20250929"}
}

var aliasForm = pattern.New(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// words reads a mapping of text to text: as YAML has it, or from the
// environment as KEY=VALUE, separated by commas.
func words(v any) (any, error) {
	out := map[string]any{}
	switch v := v.(type) {
	case string:
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			key, value, ok := strings.Cut(item, "=")
			if !ok {
				return nil, fmt.Errorf("%q is not KEY=VALUE: write haiku=MODEL,sonnet=MODEL", item)
			}
			out[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	case map[string]any:
		for key, item := range v {
			text, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("%s: %v is not text; put it into quotes", key, item)
			}
			out[key] = text
		}
	default:
		return nil, errors.New("it is not a mapping: write {haiku: MODEL, sonnet: MODEL}")
	}
	for key := range out {
		if !aliasForm().MatchString(key) { // a dot would make it a path
			return nil, fmt.Errorf("%q is not an alias: use lower-case letters, digits, - and _", key)
		}
	}
	return out, nil
}
