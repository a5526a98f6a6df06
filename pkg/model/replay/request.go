package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// Limits of one request. Even a small body may contain millions of empty messages,
// so they are counted while they are decoded.
const (
	maxBodyBytes = 32 << 20
	maxMessages  = 100_000
	maxBlocks    = 100_000 // of one message
)

// request is the part of a Messages request that determines the answer.
type request struct {
	Model        string          `json:"model"`
	Stream       bool            `json:"stream"`
	System       content         `json:"system"`
	Messages     messages        `json:"messages"`
	Tools        json.RawMessage `json:"tools"`
	OutputConfig struct {
		Format json.RawMessage `json:"format"`
	} `json:"output_config"`

	bytes  int    // length of the body, for the usage numbers
	prompt string // the prompt endpoint of the request; "" for the agent
}

type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`

	size int // bytes of its JSON
}

// messages and content decode item by item, so that their limits apply before
// memory is allocated.
type messages []message

// content is a string or a list of blocks; a string counts as one text block.
type content []block

type block struct {
	kind string
	text string // of a text block
}

func parseRequest(body []byte) (*request, error) {
	r := &request{bytes: len(body)}
	if err := json.Unmarshal(body, r); err != nil {
		return nil, err
	}
	if len(r.Messages) == 0 {
		return nil, errors.New("messages: at least one message is required")
	}
	return r, nil
}

func (ms *messages) UnmarshalJSON(data []byte) error {
	return eachItem(data, maxMessages, "messages", func(dec *json.Decoder) error {
		var m message
		before := dec.InputOffset()
		if err := dec.Decode(&m); err != nil {
			return err
		}
		m.size = int(dec.InputOffset() - before)
		switch m.Role {
		case "user", "assistant", "system":
			*ms = append(*ms, m)
			return nil
		}
		return errors.New(`role must be "user", "assistant" or "system"`)
	})
}

func (c *content) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*c = content{{kind: "text", text: s}}
		return nil
	}
	return eachItem(data, maxBlocks, "content", func(dec *json.Decoder) error {
		// Text is decoded later: other kinds of blocks may use the name for
		// something else.
		var b struct {
			Type string          `json:"type"`
			Text json.RawMessage `json:"text"`
		}
		if err := dec.Decode(&b); err != nil {
			return err
		}
		one := block{kind: b.Type}
		if b.Type == "text" {
			if err := json.Unmarshal(b.Text, &one.text); err != nil {
				return errors.New("text: must be a string")
			}
		}
		*c = append(*c, one)
		return nil
	})
}

// eachItem calls decode for every item of a JSON list of at most limit items.
func eachItem(data []byte, limit int, name string, decode func(*json.Decoder) error) error {
	if !bytes.HasPrefix(data, []byte("[")) {
		return fmt.Errorf("%s: must be a list", name)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return err
	}
	for i := 0; dec.More(); i++ {
		if i == limit {
			return fmt.Errorf("%s: more than %d items", name, limit)
		}
		if err := decode(dec); err != nil {
			return fmt.Errorf("%s.%d: %w", name, i, err)
		}
	}
	return nil
}

// isSide reports whether a request is not part of the conversation: the CLI also
// requests a title, without tools or with a fixed form of the answer.
func (r *request) isSide() bool {
	tools := strings.Join(strings.Fields(string(r.Tools)), "")
	format := string(r.OutputConfig.Format)
	return tools == "" || tools == "null" || tools == "[]" || (format != "" && format != "null")
}

// position counts the human prompts (at least 1) and the answers since the last
// of them. Consecutive messages of one side count once: the CLI adds its own
// messages, and a prompt without an answer is merged with the next one.
func (r *request) position() (human, answers int) {
	for messages := r.Messages; len(messages) > 0; {
		assistant := messages[0].Role == "assistant"
		length := 0
		for length < len(messages) && (messages[length].Role == "assistant") == assistant {
			length++
		}
		switch {
		case assistant:
			answers++
		case isPrompt(messages[:length]):
			human, answers = human+1, 0
		}
		messages = messages[length:]
	}
	return max(human, 1), answers
}

// hasAll reports whether the last human prompt contains each of the texts.
func (r *request) hasAll(texts []string) bool {
	if len(texts) == 0 {
		return true
	}
	said := strings.ToLower(r.lastPrompt())
	return !slices.ContainsFunc(texts, func(t string) bool { return !strings.Contains(said, strings.ToLower(t)) })
}

// lastPrompt returns the text of the last human prompt.
func (r *request) lastPrompt() string {
	var text strings.Builder
	for end := len(r.Messages); end > 0; {
		begin := end - 1
		for begin > 0 && (r.Messages[begin-1].Role == "assistant") == (r.Messages[end-1].Role == "assistant") {
			begin--
		}
		if r.Messages[end-1].Role != "assistant" && isPrompt(r.Messages[begin:end]) {
			for _, m := range r.Messages[begin:end] {
				for _, b := range m.Content {
					text.WriteString(b.text + "\n")
				}
			}
			break
		}
		end = begin
	}
	return text.String()
}

// isPrompt reports whether the messages between two answers contain words of a
// person. Messages with tool results do not: their texts are the CLI's, such as
// the text of a skill, and after an interruption it adds its own answer before
// the next prompt.
func isPrompt(between []message) bool {
	human := false
	for _, m := range between {
		if m.Role != "user" {
			continue
		}
		for _, b := range m.Content {
			if b.kind == "tool_result" {
				return false
			}
			human = human || b.kind != "text" || !isAdded(b.text)
		}
	}
	return human
}

// fresh returns the number of bytes of the messages since the last answer, or 0 if
// there is no answer.
func (r *request) fresh() int {
	size := 0
	for _, m := range slices.Backward(r.Messages) {
		if m.Role == "assistant" {
			return size
		}
		size += m.size
	}
	return 0
}

// isAdded reports whether the CLI added the text to a user message.
func isAdded(text string) bool {
	text = strings.TrimSpace(text)
	return text == "" ||
		strings.HasPrefix(text, "<system-reminder>") && strings.HasSuffix(text, "</system-reminder>") ||
		strings.HasPrefix(text, "[Request interrupted by user") && strings.HasSuffix(text, "]")
}

// cwdPattern matches the CLI's statement of its working directory.
var cwdPattern = pattern.New(`(?m)(?:Primary working directory|[Ww]orking directory|CWD):? *(/[^\r\n]*)$`)

// cwd returns the working directory that the request names, or "." if it names
// none, which makes the paths of a script relative. Only the CLI's texts count: a
// player's prompt might name any directory.
func (r *request) cwd() string {
	var added content
	sources := append(content{}, r.System...)
	for _, m := range r.Messages {
		for _, b := range m.Content {
			switch {
			case m.Role == "system":
				sources = append(sources, b)
			case m.Role == "user" && b.kind == "text" && isAdded(b.text):
				added = append(added, b)
			}
		}
	}
	for _, b := range append(sources, added...) {
		if m := cwdPattern().FindStringSubmatch(b.text); m != nil {
			return strings.TrimSpace(m[1])
		}
	}
	return "."
}
