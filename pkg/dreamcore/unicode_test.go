package dreamcore_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestEventsAreValidUnicode(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{`{"a":"half \ud83d of it"}`, `{"a":"half \ufffd of it"}`},
		{`{"a":"\uDE00"}`, `{"a":"\ufffd"}`},
		{`{"a":"\ud83d\ude00"}`, `{"a":"\ud83d\ude00"}`},
		{`{"a":"\uD83D\uDE00"}`, `{"a":"\uD83D\uDE00"}`},
		{`{"a":"\ud83d\ud83d\ude00"}`, `{"a":"\ufffd\ud83d\ude00"}`},
		{`{"a":"\ude00\ud83d"}`, `{"a":"\ufffd\ufffd"}`},
		{`{"a":"\ud83d\n\ude00"}`, `{"a":"\ufffd\n\ufffd"}`},
		{`{"a":"\ud83dxude00"}`, `{"a":"\ufffdxude00"}`},
		{`{"a":"\\ud83d"}`, `{"a":"\\ud83d"}`}, // a backslash and text
		{`{"a":"\\\ud83d"}`, `{"a":"\\\ufffd"}`},
		{`{"a":"\"\ud83d"}`, `{"a":"\"\ufffd"}`},
		{`{"\udfff":{"b":[1.0,{"c\ud800":"\u0041\/"}]}, "n" : 1e5}`, `{"\ufffd":{"b":[1.0,{"c\ufffd":"\u0041\/"}]}, "n" : 1e5}`},
		{"{\"a\":\"x\xffy\"}", "{\"a\":\"x\uFFFDy\"}"},
		{"{\"a\":\"x\xed\xa0\xbdy\"}", "{\"a\":\"x\uFFFDy\"}"}, // an unpaired surrogate encoded as if it were UTF-8
		{"{\"\xff\":\"\\ud83d\"}", "{\"\uFFFD\":\"\\ufffd\"}"},
		{`{"type":"err\ud83dor"}`, `{"type":"err\ufffdor"}`},
	} {
		if got, ok := dreamcore.LineEvent([]byte(tt.line)); !ok || string(got) != tt.want {
			t.Errorf("%s:\n got %s %v\nwant %s", tt.line, got, ok, tt.want)
		}
	}
}

func TestLineEventDoesNotModifyItsInput(t *testing.T) {
	line := []byte(`{"a":"\ud83d"}`)
	before := bytes.Clone(line)
	if _, ok := dreamcore.LineEvent(line); !ok || !bytes.Equal(line, before) {
		t.Errorf("the caller's line is now %s", line)
	}
}

// strict reports whether a parser that rejects unpaired surrogates accepts
// the text, which is valid JSON.
func strict(text []byte) bool {
	if !utf8.Valid(text) {
		return false
	}
	s := strings.ReplaceAll(string(text), `\\`, "")
	for {
		_, after, found := strings.Cut(s, `\u`)
		if !found {
			return true
		}
		var unit, low rune
		unit, s = hex(after[:4]), after[4:]
		if !utf16.IsSurrogate(unit) {
			continue
		}
		if !strings.HasPrefix(s, `\u`) {
			return false
		}
		low, s = hex(s[2:6]), s[6:]
		if utf16.DecodeRune(unit, low) == utf8.RuneError {
			return false
		}
	}
}

func hex(digits string) (n rune) {
	for _, d := range strings.ToLower(digits) {
		n = n<<4 | rune(strings.IndexRune("0123456789abcdef", d))
	}
	return n
}

func FuzzLineEventIsValidUnicode(f *testing.F) {
	for _, s := range []string{
		`{"a":"\ud83d"}`, `{"\ud83d\ude00":"\ude00"}`, `{"a":"\\ud83d\\\ud83d"}`, "{\"a\":\"\xed\xa0\xbd\"}",
		`{"a":"\ud83d\ud83d\ude00","b":["\uFFFF",1.0]}`, `{"a":"\"\ud83d"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		e, ok := dreamcore.LineEvent(line)
		if !ok {
			return
		}
		if !json.Valid(e) || !strict(e) {
			t.Fatalf("%q is an event that strict parsers refuse: %q", line, e)
		}
		line = bytes.TrimSpace(line)
		if json.Valid(line) && strict(line) && dreamcore.EventType(e) != "log" && !bytes.Equal(e, line) {
			t.Fatalf("%q was changed to %q", line, e)
		}
		// Go's own parser decodes both to the same text: it replaces invalid characters.
		var before, after any
		if json.Unmarshal(line, &before) == nil && dreamcore.EventType(e) != "log" && utf8.Valid(line) {
			if err := json.Unmarshal(e, &after); err != nil || !reflect.DeepEqual(before, after) {
				t.Fatalf("%q reads as %v, its event as %v", line, before, after)
			}
		}
	})
}
