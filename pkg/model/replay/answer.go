package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// answer is the model's answer to one request.
type answer struct {
	id     string
	model  string
	blocks []any // textBlock, thinkingBlock, toolUseBlock
	stop   string
	usage  usage
}

type textBlock struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type thinkingBlock struct {
	Type      string `json:"type"`
	Thinking  string `json:"thinking"`
	Signature string `json:"signature"`
}

type toolUseBlock struct {
	Type  string          `json:"type"`
	ID    string          `json:"id"`
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
}

type usage struct {
	Input      int `json:"input_tokens"`
	CacheWrite int `json:"cache_creation_input_tokens"`
	CacheRead  int `json:"cache_read_input_tokens"`
	Output     int `json:"output_tokens"`
}

// messageForm is a message in the API's form.
type messageForm struct {
	ID           string  `json:"id"`
	Type         string  `json:"type"`
	Role         string  `json:"role"`
	Model        string  `json:"model"`
	Content      []any   `json:"content"`
	StopReason   *string `json:"stop_reason"`
	StopSequence *string `json:"stop_sequence"`
	Usage        usage   `json:"usage"`
}

// Texts of answers that are not in a script.
const (
	sideText  = `{"title":"Replayed session"}`
	endText   = "The script has nothing more to say to this prompt."
	fillText  = "This answer only fails, as the script requires."
	signature = "cmVwbGF5" // required with thinking; not checked here
)

// position is the current point of a conversation: conversation and turn are
// indexes in the script, human is the number of the prompt.
type position struct {
	human, conversation, turn int
}

// locate returns the turn that answers r, or nil after the last turn.
func (s *Script) locate(r *request) (position, *turn) {
	human, answers := r.position()
	p := position{human: human, conversation: min(human, len(s.Conversations)) - 1, turn: answers}
	talk := s.Conversations[p.conversation]
	if p.turn >= len(talk) {
		return p, nil
	}
	return p, &talk[p.turn]
}

// textAnswer returns an answer that ends the turn with a text.
func textAnswer(id string, r *request, text string) *answer {
	return finish(&answer{id: id, model: modelOf(r), blocks: []any{textBlock{"text", text}}, stop: "end_turn"}, r)
}

// turnAnswer returns the answer of t. The ids of its tool calls depend on the
// position, so that they differ within a conversation and are the same if a
// request is repeated.
func turnAnswer(id string, r *request, p position, t *turn) *answer {
	a := &answer{id: id, model: modelOf(r), stop: "end_turn"}
	if t.Thinking != "" {
		a.blocks = append(a.blocks, thinkingBlock{"thinking", t.Thinking, signature})
	}
	if t.Text != "" {
		a.blocks = append(a.blocks, textBlock{"text", t.Text})
	}
	cwd := quoteInner(r.cwd())
	for i, call := range t.Tools {
		a.stop = "tool_use"
		a.blocks = append(a.blocks, toolUseBlock{
			Type: "tool_use",
			ID:   fmt.Sprintf("toolu_replay_%d_%d_%d", p.human, p.turn, i),
			Name: call.Name,
			// In valid JSON "{{" occurs only inside strings, so only the marks in
			// the input's strings are replaced.
			Input: bytes.ReplaceAll(call.Input.RawMessage, []byte("{{cwd}}"), cwd),
		})
	}
	if len(a.blocks) == 0 { // a turn that only fails, and has used up its failures
		a.blocks = append(a.blocks, textBlock{"text", fillText})
	}
	return finish(a, r)
}

// finish adds usage numbers: a token has about four bytes, and the part that an
// earlier request has sent counts as read from the cache.
func finish(a *answer, r *request) *answer {
	size := 0
	for _, b := range a.blocks {
		switch b := b.(type) {
		case textBlock:
			size += len(b.Text)
		case thinkingBlock:
			size += len(b.Thinking)
		case toolUseBlock:
			size += len(b.Name) + len(b.Input)
		}
	}
	a.usage = usage{Input: tokens(r.bytes), Output: tokens(size)}
	if fresh := r.fresh(); fresh > 0 {
		a.usage.Input = tokens(fresh)
		a.usage.CacheRead = tokens(r.bytes - fresh)
	}
	return a
}

func tokens(bytes int) int { return bytes/4 + 1 }

func (a *answer) form() messageForm {
	return messageForm{ID: a.id, Type: "message", Role: "assistant", Model: a.model, Content: a.blocks, StopReason: &a.stop, Usage: a.usage}
}

func modelOf(r *request) string {
	if r.Model == "" {
		return ModelID
	}
	return r.Model
}

// quoteInner returns s as the content of a JSON string, without the quotes.
func quoteInner(s string) []byte {
	q := encode(s)
	return q[1 : len(q)-1]
}

// encode marshals v without escaping <, > and &, like the API.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("replay: encode: " + err.Error()) // cannot happen: own types, and valid JSON
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
