package replay

import (
	"encoding/json"
	"slices"
	"strings"
)

// promptTurn is an answer for a prompt endpoint. It applies if the text of the
// last message contains one of the words, or if there are no words.
type promptTurn struct {
	Contains []string        `json:"contains"` // in lower case after Parse
	JSON     json.RawMessage `json:"json"`
	Text     string          `json:"text"`
	Delay    int             `json:"delay_ms" range:"0-600000"` // milliseconds
	Fail     *Fail           `json:"fail"`

	turn turn // the answer as a turn
}

// forPrompt returns the answer to a request of a prompt endpoint and its index,
// or nil if the script has none.
func (s *Script) forPrompt(name string, r *request) (*promptTurn, int) {
	said := strings.ToLower(r.lastWords())
	for i := range s.Prompts[name] {
		t := &s.Prompts[name][i]
		if len(t.Contains) == 0 || slices.ContainsFunc(t.Contains, func(w string) bool { return strings.Contains(said, w) }) {
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

// answerPrompt plays the script's answer for a prompt endpoint. Without one, it
// answers like a side request.
func (m *Model) answerPrompt(x *exchange) {
	t, i := m.script.forPrompt(x.prompt, x.request)
	if t == nil {
		x.say(textAnswer(x.id, x.request, sideText), nil)
		return
	}
	m.play(x, m.log.With("endpoint", x.prompt), &t.turn, spot{prompt: x.prompt, turn: i}, func() *answer {
		if t.turn.Text == "" { // an answer that only fails, and has used up its failures
			return textAnswer(x.id, x.request, fillText)
		}
		return textAnswer(x.id, x.request, t.turn.Text)
	})
}
