package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// answer is what the model says to one request.
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

// messageForm is a message as the API writes it.
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

// Texts of answers that no script wrote.
const (
	sideText  = `{"title":"Replayed session"}`
	endText   = "The script has nothing more to say to this prompt."
	fillText  = "This answer is made to fail, as the script says."
	signature = "cmVwbGF5" // thinking carries one; nobody checks ours
)

// place is where a talk stands: conversation and turn as indexes of the
// script, human as the number of the prompt.
type place struct {
	human, conversation, turn int
}

// locate finds the turn that answers r. Past the last turn it is nil.
func (s *Script) locate(r *request) (place, *turn) {
	human, answers := r.position()
	p := place{human: human, conversation: min(human, len(s.conversations)) - 1, turn: answers}
	talk := s.conversations[p.conversation]
	if p.turn >= len(talk) {
		return p, nil
	}
	return p, &talk[p.turn]
}

// textAnswer is an answer that ends the talk with a text.
func textAnswer(id string, r *request, text string) *answer {
	return finish(&answer{id: id, model: modelOf(r), blocks: []any{textBlock{"text", text}}, stop: "end_turn"}, r)
}

// turnAnswer plays t. The ids of its tool calls follow from the place, so
// that they differ within a talk and are the same when a request is repeated.
func turnAnswer(id string, r *request, p place, t *turn) *answer {
	a := &answer{id: id, model: modelOf(r), stop: "end_turn"}
	if t.thinking != "" {
		a.blocks = append(a.blocks, thinkingBlock{"thinking", t.thinking, signature})
	}
	if t.text != "" {
		a.blocks = append(a.blocks, textBlock{"text", t.text})
	}
	cwd := quoteInner(r.cwd())
	for i, call := range t.tools {
		a.stop = "tool_use"
		a.blocks = append(a.blocks, toolUseBlock{
			Type: "tool_use",
			ID:   fmt.Sprintf("toolu_replay_%d_%d_%d", p.human, p.turn, i),
			Name: call.name,
			// Braces stand for themselves only inside strings, so this
			// replaces nothing but the mark in the input's strings.
			Input: bytes.ReplaceAll(call.input, []byte("{{cwd}}"), cwd),
		})
	}
	if len(a.blocks) == 0 { // a turn that only fails, and has failed often enough
		a.blocks = append(a.blocks, textBlock{"text", fillText})
	}
	return finish(a, r)
}

// finish adds usage numbers: about four bytes make a token, and what an
// earlier request has sent is read from the cache.
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

// quoteInner is s as it stands between the quotes of a JSON string.
func quoteInner(s string) []byte {
	q := encode(s)
	return q[1 : len(q)-1]
}

// encode leaves <, > and & as they are, as the API does.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("replay: encode: " + err.Error()) // our own types, and JSON that was valid
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
