package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Limits of single values, far above what a script needs and far below what
// would make a mistyped number hang a test.
const (
	maxPauseMillis = 10 * 60 * 1000
	maxTimes       = 1_000_000
)

// node is one value of the script and the path that names it in errors.
// encoding/json alone names neither unknown fields nor list items.
type node struct {
	raw  json.RawMessage
	path string
}

func decodeScript(n node) (*Script, error) {
	fields, err := n.fields("conversations", "prompts")
	if err != nil {
		return nil, err
	}
	list, ok := fields["conversations"]
	if !ok {
		return nil, node{path: "conversations"}.wrong("is missing", `write {"conversations": [[{"text": "Hello"}]]}`)
	}
	talks, err := list.items(`write at least one conversation: "conversations": [[{"text": "Hello"}]]`)
	if err != nil {
		return nil, err
	}
	s := &Script{}
	for _, talk := range talks {
		turns, err := talk.items(`a conversation is a list of turns: [{"text": "Hello"}]`)
		if err != nil {
			return nil, err
		}
		var conversation []turn
		for _, one := range turns {
			t, err := decodeTurn(one)
			if err != nil {
				return nil, err
			}
			conversation = append(conversation, t)
		}
		s.conversations = append(s.conversations, conversation)
	}
	if prompts, ok := fields["prompts"]; ok {
		if s.prompts, err = decodePrompts(prompts); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func decodeTurn(n node) (turn, error) {
	fields, err := n.fields("text", "thinking", "delay_ms", "tools", "fail")
	if err != nil {
		return turn{}, err
	}
	var t turn
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f := fields[name]
		var err error
		switch name {
		case "text":
			t.text, err = f.text()
		case "thinking":
			t.thinking, err = f.text()
		case "delay_ms":
			t.delay, err = f.millis()
		case "tools":
			t.tools, err = decodeTools(f)
		case "fail":
			t.fail, err = decodeFail(f)
		}
		if err != nil {
			return turn{}, err
		}
	}
	if t.text == "" && t.thinking == "" && len(t.tools) == 0 && t.fail == nil {
		return turn{}, n.wrong("is an empty turn", `give it "text", "tools" or "fail"`)
	}
	return t, nil
}

func decodeTools(n node) ([]tool, error) {
	calls, err := n.items(`name a tool, or leave "tools" out`)
	if err != nil {
		return nil, err
	}
	var tools []tool
	for _, call := range calls {
		fields, err := call.fields("name", "input")
		if err != nil {
			return nil, err
		}
		name, ok := fields["name"]
		if !ok {
			return nil, call.child("name").wrong("is missing", `name the tool, for example "name": "Write"`)
		}
		t := tool{}
		if t.name, err = name.text(); err != nil {
			return nil, err
		}
		if t.name == "" {
			return nil, name.wrong("is empty", `name the tool, for example "name": "Write"`)
		}
		input, ok := fields["input"]
		if !ok {
			return nil, call.child("input").wrong("is missing", `give the tool's input as an object, {} if it needs none`)
		}
		if input.kind() != "an object" {
			return nil, input.wrongKind("an object", `give the tool's input as an object, for example {"file_path": "{{cwd}}/a.js"}`)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, input.raw); err != nil {
			return nil, fmt.Errorf("compact %s: %w", input.path, err)
		}
		t.input = compact.Bytes()
		tools = append(tools, t)
	}
	return tools, nil
}

func decodeFail(n node) (*Fail, error) {
	fields, err := n.fields("status", "type", "message", "headers", "times", "cut", "stall", "stall_ms", "garbage")
	if err != nil {
		return nil, err
	}
	f := &Fail{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		v := fields[name]
		var err error
		switch name {
		case "status":
			f.Status, err = v.whole(400, 599)
		case "type":
			f.Type, err = v.text()
		case "message":
			f.Message, err = v.text()
		case "headers":
			f.Headers, err = decodeHeaders(v)
		case "times":
			f.Times, err = v.whole(0, maxTimes)
		case "cut":
			f.Cut, err = v.flag()
		case "stall":
			f.Stall, err = v.flag()
		case "stall_ms":
			f.StallFor, err = v.millis()
		case "garbage":
			f.Garbage, err = v.flag()
		}
		if err != nil {
			return nil, err
		}
	}
	return f, checkFail(n, fields, f)
}

// checkFail refuses what would silently have no effect.
func checkFail(n node, fields map[string]node, f *Fail) error {
	ways := 0
	for _, set := range []bool{f.Status != 0, f.Cut, f.Stall, f.Garbage} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		return n.wrong("does not set exactly one of status, cut, stall and garbage", `choose one way to fail, for example {"status": 529, "times": 1}`)
	}
	for _, name := range []string{"type", "message", "headers"} {
		if v, ok := fields[name]; ok && f.Status == 0 {
			return v.wrong("has no effect without a status", "remove it, or set status")
		}
	}
	if v, ok := fields["stall_ms"]; ok && !f.Stall {
		return v.wrong("has no effect without stall", `remove it, or set "stall": true`)
	}
	return nil
}

func decodeHeaders(n node) (map[string]string, error) {
	fields, err := n.fields()
	if err != nil {
		return nil, err
	}
	headers := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		f := fields[name]
		value, err := f.text()
		if err != nil {
			return nil, err
		}
		if !isHeader(name, value) {
			return nil, f.wrong("is not a valid HTTP header", `write headers as {"retry-after": "1"}`)
		}
		switch strings.ToLower(name) {
		case "content-length", "transfer-encoding", "connection", "content-type", "trailer", "upgrade":
			return nil, f.wrong("is set by the model itself", "remove this header")
		}
		headers[name] = value
	}
	return headers, nil
}

// isHeader tells whether net/http would send the header as it is.
func isHeader(name, value string) bool {
	const marks = "!#$%&'*+-.^_`|~"
	for _, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(marks, r) {
			return false
		}
	}
	return name != "" && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

func (n node) child(name string) node {
	if n.path == "" {
		return node{path: name}
	}
	return node{path: n.path + "." + name}
}

// fields returns the members of an object. Without known names every name is
// allowed. A name that comes twice is an error: one of the two would be lost.
func (n node) fields(known ...string) (map[string]node, error) {
	if n.kind() != "an object" {
		return nil, n.wrongKind("an object", "put braces around it: {…}")
	}
	dec := json.NewDecoder(bytes.NewReader(n.raw))
	fields := map[string]node{}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("read %s: %w", n.name(), err)
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", n.name(), err)
		}
		name, _ := token.(string)
		f := n.child(name)
		if len(known) > 0 && !slices.Contains(known, name) {
			return nil, n.child(clip(name)).wrong("is an unknown field", "the fields here are: "+strings.Join(known, ", "))
		}
		if _, twice := fields[name]; twice {
			return nil, f.wrong("is there twice", "keep one of the two")
		}
		if err := dec.Decode(&f.raw); err != nil {
			return nil, fmt.Errorf("read %s: %w", f.path, err)
		}
		fields[name] = f
	}
	return fields, nil
}

// items returns the values of a list that must not be empty.
func (n node) items(hint string) ([]node, error) {
	if n.kind() != "a list" {
		return nil, n.wrongKind("a list", hint)
	}
	var raws []json.RawMessage
	if err := json.Unmarshal(n.raw, &raws); err != nil {
		return nil, fmt.Errorf("read %s: %w", n.name(), err)
	}
	if len(raws) == 0 {
		return nil, n.wrong("is empty", hint)
	}
	items := make([]node, len(raws))
	for i, raw := range raws {
		items[i] = node{raw: raw, path: n.path + "[" + strconv.Itoa(i) + "]"}
	}
	return items, nil
}

func (n node) text() (string, error) {
	var s string
	if n.kind() != "a string" {
		return "", n.wrongKind("a string", `put it in quotes: "…"`)
	}
	if err := json.Unmarshal(n.raw, &s); err != nil {
		return "", fmt.Errorf("read %s: %w", n.path, err)
	}
	return s, nil
}

func (n node) flag() (bool, error) {
	if n.kind() != "true or false" {
		return false, n.wrongKind("true or false", "write true, or leave the field out")
	}
	return string(n.raw) == "true", nil
}

func (n node) whole(least, most int) (int, error) {
	hint := fmt.Sprintf("write a whole number from %d to %d", least, most)
	if n.kind() != "a number" {
		return 0, n.wrongKind("a number", hint)
	}
	v, err := strconv.Atoi(string(n.raw))
	if err != nil || v < least || v > most {
		return 0, n.wrong("is out of range", hint)
	}
	return v, nil
}

func (n node) millis() (time.Duration, error) {
	v, err := n.whole(0, maxPauseMillis)
	return time.Duration(v) * time.Millisecond, err
}

func (n node) kind() string {
	if len(n.raw) == 0 {
		return "nothing"
	}
	switch n.raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

func (n node) name() string {
	if n.path == "" {
		return "the script"
	}
	return n.path
}

func (n node) wrong(what, hint string) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "model script: " + n.name() + " " + what, Hint: hint}
}

func (n node) wrongKind(want, hint string) error {
	return n.wrong(fmt.Sprintf("must be %s, not %s", want, n.kind()), hint)
}

// clip keeps a name from the script short enough for one line.
func clip(s string) string {
	const most = 160
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s)
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// syntaxError says at which line and column data stops being JSON.
func syntaxError(data []byte, err error) error {
	where := ""
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := data[:min(max(int(syntax.Offset)-1, 0), len(data))]
		line := bytes.Count(before, []byte("\n")) + 1
		column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
		where = fmt.Sprintf(" at line %d, column %d", line, column)
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: "the model script is not JSON" + where,
		Hint:    `a script looks like {"conversations": [[{"text": "Hello"}]]}`,
		Err:     err,
	}
}
