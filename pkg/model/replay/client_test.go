package replay_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/r3labs/sse/v2"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
)

// block is a content block of a request or an answer.
type block struct {
	Type      string          `json:"type"`
	Text      string          `json:"text,omitempty"`
	Thinking  string          `json:"thinking,omitempty"`
	Signature string          `json:"signature,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
	ToolUseID string          `json:"tool_use_id,omitempty"`
	Content   any             `json:"content,omitempty"`
	IsError   bool            `json:"is_error,omitempty"`
}

type message struct {
	ID         string         `json:"id,omitempty"`
	Role       string         `json:"role"`
	Model      string         `json:"model,omitempty"`
	Content    any            `json:"content"`
	Blocks     []block        `json:"-"`
	StopReason string         `json:"stop_reason,omitempty"`
	Usage      map[string]int `json:"usage,omitempty"`
}

func user(texts ...string) message {
	var blocks []block
	for _, s := range texts {
		blocks = append(blocks, block{Type: "text", Text: s})
	}
	return message{Role: "user", Content: blocks}
}

func assistant(text string) message { return message{Role: "assistant", Content: text} }

func toolResult(texts ...string) message {
	blocks := []block{{Type: "tool_result", ToolUseID: "toolu_x", Content: "ok"}}
	for _, s := range texts {
		blocks = append(blocks, block{Type: "text", Text: s})
	}
	return message{Role: "user", Content: blocks}
}

const reminder = "<system-reminder>\nToday is a day.\n</system-reminder>\n"

// body returns a request of the conversation: with tools, streaming unless changed.
func body(messages ...message) map[string]any {
	return map[string]any{
		"model": "claude-test", "max_tokens": 1000, "stream": true, "messages": messages,
		"system": []block{{Type: "text", Text: "You are an agent."}, {Type: "text", Text: "# Environment\n - Primary working directory: /data/p 1/\"q\"\n - Is a git repository: false"}},
		"tools":  []map[string]any{{"name": "Write"}},
	}
}

// serve serves script over a real connection.
func serve(t *testing.T, script string) *httptest.Server {
	t.Helper()
	s, err := replay.Parse([]byte(script))
	if err != nil {
		t.Fatal(err)
	}
	return serveScript(t, s)
}

func serveScript(t *testing.T, s *replay.Script) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(replay.New(s))
	t.Cleanup(srv.Close)
	t.Cleanup(srv.Client().CloseIdleConnections)
	return srv
}

func post(t *testing.T, srv *httptest.Server, request any) *http.Response {
	t.Helper()
	data, ok := request.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(request); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := srv.Client().Post(srv.URL+"/v1/messages?beta=true", "application/json", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// ask sends request and returns the complete answer, streamed or not.
func ask(t *testing.T, srv *httptest.Server, request any) message {
	t.Helper()
	resp := post(t, srv, request)
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("status %d: %s", resp.StatusCode, b)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		m, err := readStream(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := message{Content: &[]block{}}
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		t.Fatal(err)
	}
	m.Blocks = *m.Content.(*[]block)
	return m
}

func say(t *testing.T, srv *httptest.Server, messages ...message) string {
	t.Helper()
	return textOf(ask(t, srv, body(messages...)))
}

func textOf(m message) string {
	var texts []string
	for _, b := range m.Blocks {
		if b.Type == "text" {
			texts = append(texts, b.Text)
		}
	}
	return strings.Join(texts, "|")
}

var errNoEnd = errors.New("the stream ended without message_stop")

// readStream reassembles a stream as strictly as a client may: each event must be
// in order, and its name must be its type.
func readStream(r io.Reader) (message, error) {
	var m message
	var partial strings.Builder
	open, last := -1, ""
	events := sse.NewEventStreamReader(r, 32<<20)
	for {
		raw, err := events.ReadEvent()
		if err != nil {
			return m, fmt.Errorf("%w (%w)", errNoEnd, err)
		}
		var ev struct {
			Type    string  `json:"type"`
			Index   int     `json:"index"`
			Message message `json:"message"`
			Block   block   `json:"content_block"`
			Delta   struct {
				Type, Text, Thinking, Signature string
				PartialJSON                     string `json:"partial_json"`
				StopReason                      string `json:"stop_reason"`
			} `json:"delta"`
			Usage map[string]int `json:"usage"`
		}
		name, data, found := strings.Cut(string(raw), "\ndata: ")
		if !found {
			return m, fmt.Errorf("no event: %q", raw)
		}
		if err := json.Unmarshal([]byte(data), &ev); err != nil {
			return m, fmt.Errorf("event %q: %w", data, err)
		}
		if name != "event: "+ev.Type {
			return m, fmt.Errorf("event %q carries type %q", name, ev.Type)
		}
		if (last == "") != (ev.Type == "message_start") {
			return m, fmt.Errorf("%s after %q", ev.Type, last)
		}
		last = ev.Type
		switch ev.Type {
		case "message_start":
			m = ev.Message
			if m.Usage["input_tokens"] <= 0 || m.StopReason != "" {
				return m, fmt.Errorf("message_start %s", data)
			}
		case "content_block_start":
			if open != -1 || ev.Index != len(m.Blocks) {
				return m, fmt.Errorf("block %d starts while %d is open, after %d blocks", ev.Index, open, len(m.Blocks))
			}
			if ev.Block.Type == "tool_use" && string(ev.Block.Input) != "{}" {
				return m, fmt.Errorf("tool_use starts with input %s", ev.Block.Input)
			}
			open = ev.Index
			m.Blocks = append(m.Blocks, ev.Block)
			partial.Reset()
		case "content_block_delta":
			if ev.Index != open {
				return m, fmt.Errorf("delta of block %d while %d is open", ev.Index, open)
			}
			b := &m.Blocks[open]
			b.Text += ev.Delta.Text
			b.Thinking += ev.Delta.Thinking
			b.Signature += ev.Delta.Signature
			partial.WriteString(ev.Delta.PartialJSON)
		case "content_block_stop":
			if ev.Index != open {
				return m, fmt.Errorf("stop of block %d while %d is open", ev.Index, open)
			}
			if m.Blocks[open].Type == "tool_use" {
				m.Blocks[open].Input = json.RawMessage(partial.String())
			}
			open = -1
		case "message_delta":
			m.StopReason = ev.Delta.StopReason
			m.Usage = ev.Usage
		case "message_stop":
			if open != -1 || m.StopReason == "" {
				return m, fmt.Errorf("message_stop with block %d open, stop reason %q", open, m.StopReason)
			}
			return m, nil
		case "ping":
		default:
			return m, fmt.Errorf("unknown event %q", ev.Type)
		}
	}
}
