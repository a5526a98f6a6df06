package gateway

import (
	"bytes"
	"encoding/json"
)

// messageEvents converts a message that was not streamed to the events of a
// stream. It returns nil if body is not a message. Every member is kept
// unchanged, except that the content moves into its own events.
func messageEvents(body []byte) []byte {
	message := members(body)
	var blocks []json.RawMessage
	if textOf(message["type"]) != "message" || json.Unmarshal(message["content"], &blocks) != nil {
		return nil
	}
	var out bytes.Buffer
	event := func(kind string, v map[string]any) {
		v["type"] = kind
		data, err := json.Marshal(v)
		if err != nil {
			panic("gateway: encode event: " + err.Error()) // members of valid JSON
		}
		out.WriteString("event: " + kind + "\ndata: ")
		out.Write(data)
		out.WriteString("\n\n")
	}
	end := map[string]any{"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
	usage := message["usage"]
	message["content"] = json.RawMessage("[]")
	message["stop_reason"], message["stop_sequence"] = json.RawMessage("null"), json.RawMessage("null")
	event("message_start", map[string]any{"message": message})
	for i, block := range blocks {
		start, deltas := blockEvents(block)
		event("content_block_start", map[string]any{"index": i, "content_block": start})
		for _, d := range deltas {
			event("content_block_delta", map[string]any{"index": i, "delta": d})
		}
		event("content_block_stop", map[string]any{"index": i})
	}
	delta := map[string]any{"delta": end}
	if len(usage) > 0 {
		delta["usage"] = usage
	}
	event("message_delta", delta)
	event("message_stop", map[string]any{})
	return out.Bytes()
}

// blockEvents splits a block into its start and its deltas.
func blockEvents(block json.RawMessage) (start any, deltas []map[string]any) {
	v := members(block)
	part := func(member, empty, kind, as string, value any) {
		if len(v[member]) == 0 {
			return
		}
		deltas = append(deltas, map[string]any{"type": kind, as: value})
		v[member] = json.RawMessage(empty)
	}
	switch textOf(v["type"]) {
	case "text":
		part("text", `""`, "text_delta", "text", v["text"])
	case "thinking":
		part("thinking", `""`, "thinking_delta", "thinking", v["thinking"])
		part("signature", `""`, "signature_delta", "signature", v["signature"])
	case "tool_use", "server_tool_use":
		part("input", `{}`, "input_json_delta", "partial_json", string(v["input"]))
	default:
		return block, nil
	}
	return v, deltas
}
