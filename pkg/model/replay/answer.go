package replay

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
)

// modelID is the model that answers requests without a model.
const modelID = "claude-replay"

// answer is the model's answer to one request.
type answer struct {
	id     string
	model  string
	blocks []answerBlock
	stop   string
	usage  usage
}

// answerBlock is a content block of an answer.
type answerBlock struct {
	whole  json.RawMessage
	start  json.RawMessage   // the block in a stream before its deltas
	deltas []json.RawMessage // what a stream adds to start
	size   int               // bytes of text
}

type usage struct {
	Input      int `json:"input_tokens"`
	CacheWrite int `json:"cache_creation_input_tokens"`
	CacheRead  int `json:"cache_read_input_tokens"`
	Output     int `json:"output_tokens"`
}

// Texts of answers that are not in a script.
const (
	sideText  = `{"title":"Replayed session"}`
	lostText  = "I do not know what to mend: the prompt does not say what was found."
	endText   = "The script has nothing more to say to this prompt."
	fillText  = "This answer only fails, as the script requires."
	signature = "cmVwbGF5" // required with thinking; not checked here
)

// spot identifies a turn of a conversation or of a prompt endpoint.
type spot struct {
	conversation, turn int
	prompt             string
}

// locate returns the turn that answers r, its spot, and the number of the human
// prompt. A prompt endpoint without an answer gets one like a side request.
func (s *Script) locate(r *request) (at spot, human int, t *turn) {
	if r.prompt != "" {
		if t, i := s.forPrompt(r); t != nil {
			return spot{prompt: r.prompt, turn: i}, 0, t
		}
	}
	if r.prompt != "" || r.isSide() {
		return at, 0, &turn{Text: sideText}
	}
	human, answers := r.position()
	at = spot{conversation: min(human, len(s.Conversations)) - 1, turn: answers}
	talk := s.Conversations[at.conversation]
	if at.turn >= len(talk) {
		return at, human, &turn{Text: endText}
	}
	if t = &talk[at.turn]; !r.hasAll(t.Needs) {
		return at, human, &turn{Text: lostText}
	}
	return at, human, t
}

// turnAnswer returns the answer of t. The ids of its tool calls depend on the
// position, so that they differ within a conversation and are the same if a
// request is repeated.
func turnAnswer(id string, r *request, at spot, human int, t *turn) *answer {
	a := &answer{id: id, model: cmp.Or(r.Model, modelID), stop: "end_turn"}
	if t.Thinking != "" {
		a.blocks = append(a.blocks, thinkingBlock(t.Thinking))
	}
	if t.Text != "" {
		a.blocks = append(a.blocks, textBlock(t.Text))
	}
	cwd := quoteInner(r.cwd())
	for i, call := range t.Tools {
		a.stop = "tool_use"
		// In valid JSON "{{" occurs only inside strings, so only the marks in the
		// input's strings are replaced.
		input := bytes.ReplaceAll(call.Input.RawMessage, []byte("{{cwd}}"), cwd)
		a.blocks = append(a.blocks, toolBlock(fmt.Sprintf("toolu_replay_%d_%d_%d", human, at.turn, i), call.Name, input))
	}
	if len(a.blocks) == 0 { // a turn that only fails, and has used up its failures
		a.blocks = append(a.blocks, textBlock(fillText))
	}
	a.usage = usageOf(a.blocks, r)
	return a
}

func textBlock(text string) answerBlock {
	return answerBlock{
		whole: object("text", "text", text), start: object("text", "text", ""),
		deltas: deltas("text_delta", "text", text), size: len(text),
	}
}

func thinkingBlock(text string) answerBlock {
	return answerBlock{
		whole:  object("thinking", "thinking", text, "signature", signature),
		start:  object("thinking", "thinking", "", "signature", ""),
		deltas: append(deltas("thinking_delta", "thinking", text), object("signature_delta", "signature", signature)),
		size:   len(text),
	}
}

func toolBlock(id, name string, input json.RawMessage) answerBlock {
	return answerBlock{
		whole:  object("tool_use", "id", id, "name", name, "input", input),
		start:  object("tool_use", "id", id, "name", name, "input", struct{}{}),
		deltas: deltas("input_json_delta", "partial_json", string(input)),
		size:   len(name) + len(input),
	}
}

// usageOf returns usage numbers: a token has about four bytes, and the part that
// an earlier request has sent counts as read from the cache.
func usageOf(blocks []answerBlock, r *request) usage {
	size := 0
	for _, b := range blocks {
		size += b.size
	}
	u := usage{Input: tokens(r.bytes), Output: tokens(size)}
	if fresh := r.fresh(); fresh > 0 {
		u.Input = tokens(fresh)
		u.CacheRead = tokens(r.bytes - fresh)
	}
	return u
}

func tokens(bytes int) int { return bytes/4 + 1 }

// message returns a in the API's form.
func (a *answer) message() json.RawMessage {
	content := []json.RawMessage{}
	for _, b := range a.blocks {
		content = append(content, b.whole)
	}
	return a.form(content, a.stop, a.usage)
}

// form returns a message with a's identity. stop is nil before its end.
func (a *answer) form(content []json.RawMessage, stop any, u usage) json.RawMessage {
	return object("message", "id", a.id, "role", "assistant", "model", a.model,
		"content", content, "stop_reason", stop, "stop_sequence", nil, "usage", u)
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
