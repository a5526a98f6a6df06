package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// promptTurn answers a prompt endpoint where the text of its last message
// contains one of the words; without words it answers every one.
type promptTurn struct {
	contains []string // in lower case
	turn
}

// decodePrompts reads the answers of prompt endpoints by name.
func decodePrompts(n node) (map[string][]promptTurn, error) {
	endpoints, err := n.fields()
	if err != nil {
		return nil, err
	}
	prompts := map[string][]promptTurn{}
	for _, name := range slices.Sorted(maps.Keys(endpoints)) {
		list, err := endpoints[name].items(`give the endpoint at least one answer: [{"text": "edit"}]`)
		if err != nil {
			return nil, err
		}
		for _, one := range list {
			t, err := decodePromptTurn(one)
			if err != nil {
				return nil, err
			}
			prompts[name] = append(prompts[name], t)
		}
	}
	return prompts, nil
}

func decodePromptTurn(n node) (t promptTurn, err error) {
	fields, err := n.fields("contains", "json", "text", "delay_ms", "fail")
	if err != nil {
		return t, err
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f := fields[name]
		var err error
		switch name {
		case "contains":
			t.contains, err = decodeWords(f)
		case "json":
			if _, both := fields["text"]; both {
				return t, f.wrong("stands beside text", "keep one of the two")
			}
			t.text, err = f.compact()
		case "text":
			t.text, err = f.text()
		case "delay_ms":
			t.delay, err = f.millis()
		case "fail":
			t.fail, err = decodeFail(f)
		}
		if err != nil {
			return t, err
		}
	}
	if t.text == "" && t.fail == nil {
		return t, n.wrong("is an empty answer", `give it "text", "json" or "fail"`)
	}
	return t, nil
}

func decodeWords(n node) (words []string, err error) {
	list, err := n.items(`name a word, or leave "contains" out`)
	if err != nil {
		return nil, err
	}
	for _, item := range list {
		word, err := item.text()
		if err != nil {
			return nil, err
		}
		words = append(words, strings.ToLower(word))
	}
	return words, nil
}

// compact returns a JSON value as text.
func (n node) compact() (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, n.raw); err != nil {
		return "", fmt.Errorf("compact %s: %w", n.path, err)
	}
	return b.String(), nil
}

// forPrompt returns the answer to a request of a prompt endpoint and its
// index, nil where the script has none.
func (s *Script) forPrompt(name string, r *request) (*promptTurn, int) {
	said := strings.ToLower(r.lastWords())
	for i := range s.prompts[name] {
		t := &s.prompts[name][i]
		if len(t.contains) == 0 || slices.ContainsFunc(t.contains, func(w string) bool { return strings.Contains(said, w) }) {
			return t, i
		}
	}
	return nil, 0
}

// lastWords returns the text of the last message.
func (r *request) lastWords() string {
	var text strings.Builder
	for _, b := range r.Messages[len(r.Messages)-1].Content {
		text.WriteString(b.text)
	}
	return text.String()
}

// answerPrompt plays the script's answer for a prompt endpoint. Without one the
// model answers as to any question beside the talk.
func (m *Model) answerPrompt(x *exchange) {
	t, i := m.script.forPrompt(x.prompt, x.request)
	if t == nil {
		x.say(textAnswer(x.id, x.request, sideText), nil)
		return
	}
	m.play(x, m.log.With("endpoint", x.prompt), &t.turn, spot{prompt: x.prompt, turn: i}, func() *answer {
		if t.text == "" { // an answer that only fails, and has failed often enough
			return textAnswer(x.id, x.request, fillText)
		}
		return textAnswer(x.id, x.request, t.text)
	})
}
