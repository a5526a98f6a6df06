package replay

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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

// event writes an event of the given type; members are alternating names and
// values.
func (s *stream) event(kind string, members ...any) {
	s.raw(slices.Concat([]byte("event: "+kind+"\ndata: "), object(kind, members...), []byte("\n\n")))
}

// object returns a JSON object whose first member is its type, as in the API's
// events.
func object(kind string, members ...any) json.RawMessage {
	out := append([]byte(`{"type":`), encode(kind)...)
	for pair := range slices.Chunk(members, 2) {
		out = fmt.Appendf(out, ",%q:%s", pair[0], encode(pair[1]))
	}
	return append(out, '}')
}

func (s *stream) start(a *answer) {
	first := a.usage
	first.Output = 1 // the API reports the final number at the end
	s.event("message_start", "message", a.form([]json.RawMessage{}, nil, first))
	s.event("ping")
}

func (s *stream) finish(a *answer) {
	s.event("message_delta", "delta", map[string]any{"stop_reason": a.stop, "stop_sequence": nil}, "usage", a.usage)
	s.event("message_stop")
}

// deltas returns text as deltas of the given type, each with a part of the text in
// its member. It splits between characters: half a character is not valid JSON.
func deltas(kind, member, text string) []json.RawMessage {
	size := max(leastChunk, len(text)/chunksPerBlock)
	var parts []json.RawMessage
	for len(text) > 0 {
		end := min(size, len(text))
		for end < len(text) && !utf8.RuneStart(text[end]) {
			end++
		}
		parts = append(parts, object(kind, member, text[:end]))
		text = text[end:]
	}
	return parts
}
