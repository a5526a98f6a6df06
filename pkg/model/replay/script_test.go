package replay_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
)

func TestParseNamesTheWrongFieldByItsPath(t *testing.T) {
	turn := func(s string) string { return `{"conversations":[[{"text":"a"},` + s + `]]}` }
	tests := []struct {
		name, script, message, hint string
	}{
		{"empty", ``, "not JSON", "conversations"},
		{"not JSON", "{\n  \"conversations\": [\n    oops", "line 3, column 5", "conversations"},
		{"two values", `{"conversations":[[{"text":"a"}]]} {}`, "not JSON", ""},
		{"a list", `[]`, "the script must be an object, not a list", "{"},
		{"null", `null`, "the script must be an object, not null", "{"},
		{"no conversations", `{}`, "conversations is missing", "conversations"},
		{"unknown top field", `{"conversation":[]}`, "conversation is an unknown field", "conversations"},
		{"conversations no list", `{"conversations":{}}`, "conversations must be a list", ""},
		{"no conversation", `{"conversations":[]}`, "conversations is empty", "at least one"},
		{"empty conversation", `{"conversations":[[{"text":"a"}],[]]}`, "conversations[1] is empty", "list of turns"},
		{"turn no object", turn(`"hello"`), "conversations[0][1] must be an object, not a string", ""},
		{"empty turn", turn(`{}`), "conversations[0][1] is an empty turn", `"text"`},
		{"only a delay", turn(`{"delay_ms":5}`), "conversations[0][1] is an empty turn", ""},
		{"unknown turn field", turn(`{"txt":"a"}`), "conversations[0][1].txt is an unknown field", "text, thinking"},
		{"field in other case", turn(`{"Text":"a"}`), "conversations[0][1].Text is an unknown field", ""},
		{"field twice", turn(`{"text":"a","text":"b"}`), "conversations[0][1].text is a duplicate", "keep one"},
		{"text no string", turn(`{"text":3}`), "conversations[0][1].text must be a string, not a number", "quotes"},
		{"delay no number", turn(`{"text":"a","delay_ms":"5"}`), "conversations[0][1].delay_ms must be a number, not a string", "600000"},
		{"delay a fraction", turn(`{"text":"a","delay_ms":1.5}`), "conversations[0][1].delay_ms is out of range", "600000"},
		{"delay negative", turn(`{"text":"a","delay_ms":-1}`), "conversations[0][1].delay_ms is out of range", ""},
		{"delay an hour", turn(`{"text":"a","delay_ms":3600000}`), "conversations[0][1].delay_ms is out of range", ""},
		{"no tools", turn(`{"text":"a","tools":[]}`), "conversations[0][1].tools is empty", ""},
		{"tool name missing", turn(`{"tools":[{"name":"Read","input":{}},{"input":{}}]}`), "conversations[0][1].tools[1].name is missing", "Write"},
		{"tool name empty", turn(`{"tools":[{"name":"Read","input":{}},{"name":"","input":{}}]}`), "conversations[0][1].tools[1].name is empty", "Write"},
		{"tool name no string", turn(`{"tools":[{"name":{},"input":{}}]}`), "conversations[0][1].tools[0].name must be a string, not an object", ""},
		{"tool input missing", turn(`{"tools":[{"name":"Read"}]}`), "conversations[0][1].tools[0].input is missing", "object"},
		{"tool input no object", turn(`{"tools":[{"name":"Read","input":"x"}]}`), "conversations[0][1].tools[0].input must be an object, not a string", ""},
		{"unknown tool field", turn(`{"tools":[{"name":"Read","input":{},"id":"x"}]}`), "conversations[0][1].tools[0].id is an unknown field", "name, input"},
		{"fail empty", turn(`{"fail":{}}`), "conversations[0][1].fail does not set exactly one", "status"},
		{"fail two ways", turn(`{"fail":{"cut":true,"stall":true}}`), "conversations[0][1].fail does not set exactly one", ""},
		{"fail switched off", turn(`{"fail":{"cut":false}}`), "conversations[0][1].fail does not set exactly one", ""},
		{"fail status of success", turn(`{"fail":{"status":200}}`), "conversations[0][1].fail.status is out of range", "599"},
		{"fail type without status", turn(`{"fail":{"cut":true,"type":"x"}}`), "conversations[0][1].fail.type has no effect", ""},
		{"fail stall_ms without stall", turn(`{"fail":{"cut":true,"stall_ms":5}}`), "conversations[0][1].fail.stall_ms has no effect", ""},
		{"fail times negative", turn(`{"fail":{"cut":true,"times":-1}}`), "conversations[0][1].fail.times is out of range", ""},
		{"fail flag no bool", turn(`{"fail":{"cut":1}}`), "conversations[0][1].fail.cut must be true or false, not a number", ""},
		{"fail unknown field", turn(`{"fail":{"staus":429}}`), "conversations[0][1].fail.staus is an unknown field", "status"},
		{"fail header name", turn(`{"fail":{"status":429,"headers":{"a b":"1"}}}`), "conversations[0][1].fail.headers.a b is not a valid HTTP header", ""},
		{"fail header value", turn(`{"fail":{"status":429,"headers":{"a":"1\r\nb: 2"}}}`), "conversations[0][1].fail.headers.a is not a valid HTTP header", ""},
		{"fail framing header", turn(`{"fail":{"status":429,"headers":{"Content-Length":"1"}}}`), "conversations[0][1].fail.headers.Content-Length is set by the model itself", ""},
		{"too deep", strings.Repeat("[", 20000), "not JSON", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := replay.Parse([]byte(tt.script))
			e, ok := errors.AsType[*dreamcore.Error](err)
			if !ok || e.Code != dreamcore.CodeInvalid {
				t.Fatalf("got %v, want a dreamcore.Error with CodeInvalid", err)
			}
			if !strings.Contains(e.Message, tt.message) {
				t.Errorf("message %q does not contain %q", e.Message, tt.message)
			}
			if e.Hint == "" || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("hint %q does not contain %q", e.Hint, tt.hint)
			}
		})
	}
}

func TestParseAcceptsAllFields(t *testing.T) {
	valid := []string{
		`{"conversations":[[{"text":"a","thinking":"b","delay_ms":1,"tools":[{"name":"No such tool","input":{}}]}]]}`,
		`{"conversations":[[{"fail":{"status":429,"type":"rate_limit_error","message":"m","headers":{"retry-after":"1"},"times":2}}]]}`,
		`{"conversations":[[{"fail":{"stall":true,"stall_ms":10}}],[{"fail":{"garbage":true}}],[{"fail":{"cut":true,"times":0}}]]}`,
		"\ufeff" + `{"conversations":[[{"thinking":"a byte order mark is harmless"}]]}`,
	}
	for _, script := range valid {
		if _, err := replay.Parse([]byte(script)); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
}

func TestParseRejectsTooLongScript(t *testing.T) {
	_, err := replay.Parse(make([]byte, replay.MaxScriptBytes+1))
	if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "16 MiB") {
		t.Errorf("got %v", err)
	}
}

func TestLoadReadsFilesAndKnowsTheDemo(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.json", `{"conversations":[[{"text":"hello"}]]}`)
	bad := write("bad.json", `{"conversations":[[{"texte":"hello"}]]}`)
	for _, name := range []string{"demo", good} {
		if _, err := replay.Load(name); err != nil {
			t.Errorf("Load(%q): %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"":                                 "there is no model script",
		filepath.Join(dir, "missing.json"): "there is no model script",
		dir:                                "cannot be read",
		bad:                                "bad.json: model script: conversations[0][0].texte is an unknown field",
	} {
		_, err := replay.Load(name)
		e, ok := errors.AsType[*dreamcore.Error](err)
		if !ok || e.Code != dreamcore.CodeInvalid || e.Hint == "" || !strings.Contains(e.Message, want) {
			t.Errorf("Load(%q) = %v, want %q and a hint", name, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"conversations":[[{"text":"a","thinking":"b","delay_ms":1,"tools":[{"name":"Write","input":{"a":["{{cwd}}"]}}],"fail":{"status":429,"headers":{"a":"b"},"times":1}}]]}`))
	f.Add([]byte(`{"conversations":[[{"fail":{"stall":true,"stall_ms":1}},{"fail":{"cut":true}},{"fail":{"garbage":true}}]]}`))
	f.Add([]byte("\ufeff{}"))
	f.Add([]byte(`{"conversations":[[{"delay_ms":1e999}]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := replay.Parse(data)
		if (s == nil) == (err == nil) {
			t.Fatalf("script %v and error %v", s, err)
		}
		if err != nil && (dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "") {
			t.Fatalf("error without code or hint: %#v", err)
		}
	})
}
