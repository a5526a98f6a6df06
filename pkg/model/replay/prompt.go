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
func (s *Script) forPrompt(r *request) (*turn, int) {
	said := strings.ToLower(r.lastWords())
	for i := range s.Prompts[r.prompt] {
		t := &s.Prompts[r.prompt][i]
		if len(t.Contains) == 0 || slices.ContainsFunc(t.Contains, func(w string) bool { return strings.Contains(said, w) }) {
			return &t.turn, i
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
