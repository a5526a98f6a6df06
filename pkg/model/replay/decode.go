package replay

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ReasonScript is the reason of every error about a model script.
const ReasonScript dreamcore.Reason = "replay.script"

// node is a value of the script and its path. encoding/json decodes the script,
// but it accepts names in another case and duplicate names, and its errors do not
// contain the path of a value. So check compares the script with the types first.
type node struct {
	raw  json.RawMessage
	path string
}

// kinds and hints describe the value that a type is decoded from.
var (
	kinds = map[reflect.Kind]string{
		reflect.String: "a string", reflect.Bool: "true or false", reflect.Int: "a number",
		reflect.Slice: "a list", reflect.Map: "an object", reflect.Struct: "an object",
	}
	hints = map[reflect.Type]string{
		reflect.TypeFor[string]():         `put it in quotes: "…"`,
		reflect.TypeFor[bool]():           "write true, or omit the field",
		reflect.TypeFor[[]conversation](): `write at least one conversation: "conversations": [[{"text": "Hello"}]]`,
		reflect.TypeFor[conversation]():   `a conversation is a list of turns: [{"text": "Hello"}]`,
		reflect.TypeFor[[]tool]():         `name a tool, or omit "tools"`,
		reflect.TypeFor[toolInput]():      `give the tool's input as an object, for example {"file_path": "{{cwd}}/a.js"}`,
		reflect.TypeFor[[]promptTurn]():   `give the endpoint at least one answer: [{"text": "edit"}]`,
		reflect.TypeFor[[]string]():       `name a word, or omit "contains"`,
	}
)

// check returns an error if the value does not have the type t. limits is the
// range of a number, such as "0-9".
func (n node) check(t reflect.Type, limits string) error {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[json.RawMessage]() {
		return nil
	}
	hint, ok := hints[t]
	if !ok {
		hint = "put braces around it: {…}"
	}
	var least, most int
	if t.Kind() == reflect.Int {
		_, _ = fmt.Sscanf(limits, "%d-%d", &least, &most) // written in this package
		hint = fmt.Sprintf("write a whole number from %d to %d", least, most)
	}
	if want := kinds[t.Kind()]; n.kind() != want {
		return n.wrong(fmt.Sprintf("must be %s, not %s", want, n.kind()), hint)
	}
	switch {
	case t.Kind() == reflect.Int:
		if v, err := strconv.Atoi(string(n.raw)); err != nil || v < least || v > most {
			return n.wrong("is out of range", hint)
		}
	case t.Kind() == reflect.Slice:
		return n.checkItems(t.Elem(), hint)
	case t.Kind() == reflect.Map || t.Kind() == reflect.Struct && t != reflect.TypeFor[toolInput]():
		return n.checkMembers(t)
	}
	return nil
}

func (n node) checkItems(t reflect.Type, hint string) error {
	var items []json.RawMessage
	if err := json.Unmarshal(n.raw, &items); err != nil {
		return fmt.Errorf("read %s: %w", n.name(), err)
	}
	if len(items) == 0 {
		return n.wrong("is empty", hint)
	}
	for i, raw := range items {
		if err := (node{raw, n.path + "[" + strconv.Itoa(i) + "]"}).check(t, ""); err != nil {
			return err
		}
	}
	return nil
}

// checkMembers checks each member of an object against the fields of a struct, or
// the values of a map. The tag "required" holds the hint for a missing field, the
// tag "range" the limits of a number. A duplicate name is an error: one of the two
// values would be lost.
func (n node) checkMembers(t reflect.Type) error {
	fields, names := map[string]reflect.StructField{}, []string{}
	if t.Kind() == reflect.Struct {
		for f := range t.Fields() {
			if name := f.Tag.Get("json"); name != "" {
				fields[name], names = f, append(names, name)
			}
		}
	}
	seen := map[string]bool{}
	dec := json.NewDecoder(bytes.NewReader(n.raw))
	_, err := dec.Token()
	for err == nil && dec.More() {
		var token json.Token
		if token, err = dec.Token(); err != nil {
			break
		}
		name, _ := token.(string)
		member := n.child(name)
		field, known := fields[name]
		switch {
		case t.Kind() == reflect.Map:
			field.Type = t.Elem()
		case !known:
			return n.child(clip(name)).wrong("is an unknown field", "the fields here are: "+strings.Join(names, ", "))
		}
		if seen[name] {
			return member.wrong("is a duplicate", "keep one of the two")
		}
		seen[name] = true
		if err = dec.Decode(&member.raw); err != nil {
			break
		}
		if err := member.check(field.Type, field.Tag.Get("range")); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", n.name(), err)
	}
	for _, name := range names {
		if hint := fields[name].Tag.Get("required"); hint != "" && !seen[name] {
			return n.child(name).wrong("is missing", hint)
		}
	}
	return nil
}

func (n node) child(name string) node {
	return node{path: strings.TrimPrefix(n.path+"."+name, ".")}
}

func (n node) kind() string {
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

func (n node) name() string { return cmp.Or(n.path, "the script") }

func (n node) wrong(what, hint string) error {
	return scriptError("model script: "+n.name()+" "+what, hint, nil)
}

func scriptError(message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonScript, Message: message, Hint: hint, Err: err}
}

// decodeScript decodes and checks a script, which must be valid JSON.
func decodeScript(raw json.RawMessage) (*Script, error) {
	s := &Script{}
	root := node{raw: raw}
	if err := root.check(reflect.TypeFor[Script](), ""); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, root.wrong("cannot be decoded: "+err.Error(), "compare it with an example")
	}
	for i, talk := range s.Conversations {
		for j := range talk {
			if err := talk[j].finish(node{path: fmt.Sprintf("conversations[%d][%d]", i, j)}); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Prompts)) {
		for i := range s.Prompts[name] {
			if err := s.Prompts[name][i].finish(node{path: fmt.Sprintf("prompts.%s[%d]", name, i)}); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// finish checks a decoded turn and compacts the inputs of its tools.
func (t *turn) finish(n node) error {
	if t.Text == "" && t.Thinking == "" && len(t.Tools) == 0 && t.Fail == nil {
		return n.wrong("is an empty turn", `give it "text", "tools" or "fail"`)
	}
	for i := range t.Tools {
		call := &t.Tools[i]
		if call.Name == "" {
			return n.child(fmt.Sprintf("tools[%d].name", i)).wrong("is empty", `name the tool, for example "name": "Write"`)
		}
		call.Input.RawMessage = compact(call.Input.RawMessage)
	}
	return t.Fail.check(n.child("fail"))
}

// finish checks a decoded answer of a prompt endpoint and converts it to a turn.
func (t *promptTurn) finish(n node) error {
	if t.JSON != nil && t.Text != "" {
		return n.child("json").wrong("cannot be used together with text", "keep one of the two")
	}
	text := t.Text
	if t.JSON != nil {
		text = string(compact(t.JSON))
	}
	if text == "" && t.Fail == nil {
		return n.wrong("is an empty answer", `give it "text", "json" or "fail"`)
	}
	for i, word := range t.Contains {
		t.Contains[i] = strings.ToLower(word)
	}
	t.turn = turn{Text: text, Delay: t.Delay, Fail: t.Fail}
	return t.Fail.check(n.child("fail"))
}

// compact removes the white space from valid JSON.
func compact(raw json.RawMessage) json.RawMessage {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return raw // cannot happen: it has been decoded
	}
	return b.Bytes()
}

// check rejects settings that would silently have no effect. f may be nil.
func (f *Fail) check(n node) error {
	if f == nil {
		return nil
	}
	ways := slices.DeleteFunc([]bool{f.Status != 0, f.Cut, f.Stall, f.Garbage}, func(set bool) bool { return !set })
	if len(ways) != 1 {
		return n.wrong("does not set exactly one of status, cut, stall and garbage", `choose one way to fail, for example {"status": 529, "times": 1}`)
	}
	for name, set := range map[string]bool{"type": f.Type != "", "message": f.Message != "", "headers": len(f.Headers) > 0} {
		if set && f.Status == 0 {
			return n.child(name).wrong("has no effect without a status", "remove it, or set status")
		}
	}
	if f.StallMillis > 0 && !f.Stall {
		return n.child("stall_ms").wrong("has no effect without stall", `remove it, or set "stall": true`)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Headers)) {
		at := n.child("headers").child(name)
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(f.Headers[name]) {
			return at.wrong("is not a valid HTTP header", `write headers as {"retry-after": "1"}`)
		}
		switch strings.ToLower(name) {
		case "content-length", "transfer-encoding", "connection", "content-type", "trailer", "upgrade":
			return at.wrong("is set by the model itself", "remove this header")
		}
	}
	return nil
}

// clip shortens a name from the script to fit on one line.
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

// syntaxError reports the line and column at which data is not JSON.
func syntaxError(data []byte, err error) error {
	where := ""
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := data[:min(max(int(syntax.Offset)-1, 0), len(data))]
		line := bytes.Count(before, []byte("\n")) + 1
		column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
		where = fmt.Sprintf(" at line %d, column %d", line, column)
	}
	return scriptError("the model script is not JSON"+where, `a script looks like {"conversations": [[{"text": "Hello"}]]}`, err)
}
