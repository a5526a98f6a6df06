package prompt

import (
	"net/http"
	"strings"
)

// failure describes the client's answer if the model has not answered. An answer
// with status 200 has "fallback":true.
type failure struct {
	status int
	guess  *guess // of KindWords: depends on the words in a field
	body   any    // nil with guess; its strings are templates
}

// guess chooses a word by the text of a field.
type guess struct {
	field     string
	rules     []rule // the first match counts
	otherwise string
}

// rule matches a text that starts with, contains or ends with one of its words,
// which are in lower case.
type rule struct {
	answer                 string
	starts, contains, ends []string
}

func (g *guess) word(text string) string {
	text = strings.ToLower(strings.TrimSpace(text))
	for _, r := range g.rules {
		if r.fits(text) {
			return r.answer
		}
	}
	return g.otherwise
}

func (r rule) fits(text string) bool {
	for _, w := range r.starts {
		if strings.HasPrefix(text, w) && hasWord(text[:min(len(text), len(w)+1)], w) {
			return true
		}
	}
	for _, w := range r.contains {
		if hasWord(text, w) {
			return true
		}
	}
	for _, w := range r.ends {
		if strings.HasSuffix(text, w) {
			return true
		}
	}
	return false
}

// answer returns the client's answer.
func (f failure) answer(key string, r request, v *view) (map[string]any, error) {
	var body map[string]any
	if f.guess != nil {
		text, _ := r.values[f.guess.field].(string)
		body = map[string]any{key: f.guess.word(text)}
	} else {
		filled, err := fill(f.body, r, v)
		if err != nil {
			return nil, err
		}
		body = filled.(map[string]any)
	}
	if f.status == http.StatusOK {
		body["fallback"] = true
	}
	return body, nil
}

// fill returns value with its templates executed.
func fill(value any, r request, v *view) (any, error) {
	switch value := value.(type) {
	case *template:
		return value.run(r.values, v)
	case []any:
		list := make([]any, len(value))
		for i, item := range value {
			filled, err := fill(item, r, v)
			if err != nil {
				return nil, err
			}
			list[i] = filled
		}
		return list, nil
	case map[string]any:
		m := make(map[string]any, len(value))
		for key, item := range value {
			filled, err := fill(item, r, v)
			if err != nil {
				return nil, err
			}
			m[key] = filled
		}
		return m, nil
	}
	return value, nil
}
