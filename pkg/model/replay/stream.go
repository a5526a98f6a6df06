package replay

import (
	"bytes"
	"encoding/json"
	"net/http"
	"unicode/utf8"
)

// A block is sent in at most about chunksPerBlock pieces of at least leastChunk
// bytes, so that a large file does not result in a million events.
const (
	chunksPerBlock = 64
	leastChunk     = 24
)

// stream writes server-sent events and flushes each of them. After the first
// failed write it writes nothing more.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	err     error
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	return &stream{w: w, control: http.NewResponseController(w)}
}

// raw writes bytes unchanged. It is not an error if the writer cannot flush.
func (s *stream) raw(b []byte) {
	if s.err != nil {
		return
	}
	if _, s.err = s.w.Write(b); s.err == nil {
		_ = s.control.Flush()
	}
}

func (s *stream) event(name string, data any) {
	var b bytes.Buffer
	b.WriteString("event: " + name + "\ndata: ")
	b.Write(encode(data))
	b.WriteString("\n\n")
	s.raw(b.Bytes())
}

// The events of a stream, in the API's form.
type (
	typed struct {
		Type string `json:"type"`
	}
	messageStart struct {
		Type    string      `json:"type"`
		Message messageForm `json:"message"`
	}
	blockStart struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
		Block any    `json:"content_block"`
	}
	blockDelta struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
		Delta any    `json:"delta"`
	}
	blockStop struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
	}
	textDelta struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	thinkingDelta struct {
		Type     string `json:"type"`
		Thinking string `json:"thinking"`
	}
	signatureDelta struct {
		Type      string `json:"type"`
		Signature string `json:"signature"`
	}
	inputDelta struct {
		Type    string `json:"type"`
		Partial string `json:"partial_json"`
	}
	messageDelta struct {
		Type  string `json:"type"`
		Delta struct {
			StopReason   string  `json:"stop_reason"`
			StopSequence *string `json:"stop_sequence"`
		} `json:"delta"`
		Usage usage `json:"usage"`
	}
)

func (s *stream) start(a *answer) {
	first := a.form()
	first.Content = []any{}
	first.StopReason = nil
	first.Usage.Output = 1 // the API reports the final number at the end
	s.event("message_start", messageStart{"message_start", first})
	s.event("ping", typed{"ping"})
}

func (s *stream) finish(a *answer) {
	d := messageDelta{Type: "message_delta", Usage: a.usage}
	d.Delta.StopReason = a.stop
	s.event("message_delta", d)
	s.event("message_stop", typed{"message_stop"})
}

// open starts block i and returns its deltas, still to be sent.
func (s *stream) open(i int, block any) []any {
	switch b := block.(type) {
	case thinkingBlock:
		s.event("content_block_start", blockStart{"content_block_start", i, thinkingBlock{Type: "thinking"}})
		return append(deltas(b.Thinking, func(part string) any { return thinkingDelta{"thinking_delta", part} }),
			signatureDelta{"signature_delta", b.Signature})
	case toolUseBlock:
		empty := b
		empty.Input = json.RawMessage("{}")
		s.event("content_block_start", blockStart{"content_block_start", i, empty})
		return deltas(string(b.Input), func(part string) any { return inputDelta{"input_json_delta", part} })
	case textBlock:
		s.event("content_block_start", blockStart{"content_block_start", i, textBlock{Type: "text"}})
		return deltas(b.Text, func(part string) any { return textDelta{"text_delta", part} })
	}
	panic("replay: unknown block") // cannot happen: only this package creates answers
}

func (s *stream) send(i int, delta any) {
	s.event("content_block_delta", blockDelta{"content_block_delta", i, delta})
}

func (s *stream) close(i int) {
	s.event("content_block_stop", blockStop{"content_block_stop", i})
}

// deltas splits text between characters: half a character is not valid JSON.
func deltas(text string, form func(string) any) []any {
	size := max(leastChunk, len(text)/chunksPerBlock)
	var parts []any
	for len(text) > 0 {
		end := min(size, len(text))
		for end < len(text) && !utf8.RuneStart(text[end]) {
			end++
		}
		parts = append(parts, form(text[:end]))
		text = text[end:]
	}
	return parts
}
