package prompt

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// answerOf reads a model's text like the shipped endpoint of that name.
func answerOf(t *testing.T, name, said string, values map[string]any, first ...string) (map[string]any, error) {
	t.Helper()
	e := shipped()[name]
	r := request{values: values}
	return e.Answer.read(said, r, first, func(s string) bool { return strings.HasPrefix(s, "p5js-") })
}

func TestWordIsFoundInModelText(t *testing.T) {
	for said, want := range map[string]string{
		"edit": "edit", " Chat.\n": "chat", "**restore**": "restore", `{"intent":"chat"}`: "chat", "```\nedit\n```": "edit", "The answer is: edit!": "edit",
		"意図はchatです": "chat", "": "", "editor": "", "I could edit or chat": "", "none": "", "chat_edit": "",
	} {
		got, err := answerOf(t, "detect_intent", said, nil)
		if want == "" {
			if err == nil {
				t.Errorf("%q: %v", said, got)
			}
			continue
		}
		if err != nil || got["intent"] != want {
			t.Errorf("%q: %v, %v; want %s", said, got, err, want)
		}
	}
}

func TestJSONIsFoundInModelText(t *testing.T) {
	good := `{"message":"hi {\"x\": [1]} }","suggestions":["a","b"]}`
	want := map[string]any{"message": `hi {"x": [1]} }`, "suggestions": []any{"a", "b"}}
	for name, said := range map[string]string{
		"bare":                   good,
		"fenced":                 "Sure!\n```json\n" + good + "\n```\nAnything else?",
		"fenced without a name":  "```\n" + good + "\n```",
		"text around it":         "Here it is: " + good + " That is all {really}.",
		"a broken one before":    `{"message": oops} ` + good,
		"one that does not fit":  `{"note":"draft"} then ` + good,
		"an open brace before":   "set {a, b, then " + good,
		"inside another object":  `{"answer":` + good + `}`,
		"in a list":              `[` + good + `]`,
		"with unknown members":   strings.Replace(good, `{"message"`, `{"mood":"fine","message"`, 1),
		"byte order mark before": "\ufeff" + good,
	} {
		got, err := answerOf(t, "chat_haiku", said, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestTextWithoutJSONIsAcceptedWithPlain(t *testing.T) {
	got, err := answerOf(t, "chat_haiku", "Use the arrow keys.", nil)
	if diff := cmp.Diff(map[string]any{"message": "Use the arrow keys.", "suggestions": []any{}}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	got, err = answerOf(t, "chat_haiku", `{"anything": 1}`, map[string]any{"raw_output": true})
	if diff := cmp.Diff(map[string]any{"result": `{"anything": 1}`}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, said := range []string{`{"suggestions":[]}`, `{"message":""}`, `{"message":5}`, `{"message":"` + strings.Repeat("x", 40_000) + `"}`, strings.Repeat("x", 70_000)} {
		if got, err := answerOf(t, "chat_haiku", said, nil); err == nil {
			t.Errorf("%.40q: %v", said, got)
		}
	}
}

func TestSkillsMustExistInTheVolume(t *testing.T) {
	for _, tt := range []struct {
		said  string
		first []string
		want  []any
	}{
		{`["p5js-input","p5js-sound"]`, []string{"p5js-setup"}, []any{"p5js-setup", "p5js-input", "p5js-sound"}},
		{`["p5js-input","p5js-setup"]`, []string{"p5js-setup"}, []any{"p5js-setup", "p5js-input"}},
		{`["nonsense","p5js-input",5,null,["x"]]`, []string{"threejs-setup"}, []any{"p5js-input"}},
		{`["p5js-a","p5js-b","p5js-c","p5js-d","p5js-e","p5js-f"]`, []string{"p5js-setup"}, []any{"p5js-setup", "p5js-a", "p5js-b", "p5js-c", "p5js-d"}},
		{`{"skills": ["p5js-a", "p5js-a"]}`, nil, []any{"p5js-a"}},
		{`[]`, []string{"p5js-setup"}, []any{"p5js-setup"}},
	} {
		got, err := answerOf(t, "detect_skills", tt.said, nil, tt.first...)
		if diff := cmp.Diff(map[string]any{"skills": tt.want}, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", tt.said, err, diff)
		}
	}
	if _, err := answerOf(t, "detect_skills", "p5js-input", nil); err == nil {
		t.Error("text is no list")
	}
}

func TestGeneratedFilesMustHaveAllowedNames(t *testing.T) {
	file := func(path string) string { return `{"path":` + quote(path) + `,"content":"x"}` }
	index := file("index.html")
	for _, files := range []string{index, index + "," + file("game.js") + "," + file("SPEC.md") + "," + file("a b.css")} {
		got, err := answerOf(t, "v2_generate_code", `{"files":[`+files+`],"summary":"s"}`, nil)
		if err != nil || got["engine_version"] != "v2" || got["summary"] != "s" {
			t.Errorf("%s: %v, %v", files, got, err)
		}
	}
	for _, files := range []string{
		"", file("game.js"), index + "," + index, index + "," + file("../x.js"), index + "," + file("/x.js"), index + "," + file("a/x.js"),
		index + "," + file(".x.js"), index + "," + file("x.sh"), index + "," + file("x.js\x00"), index + "," + file("a\\x.js"), index + "," + file(""),
		index + `,{"path":"x.js"}`, index + `,{"path":"x.js","content":5}`, index + `,"x"`, index + strings.Repeat(","+file("x.js"), 40), file("INDEX.HTML"),
		index + "," + file("x\n.js"), `{"path":"index.html","content":" "}`,
	} {
		if got, err := answerOf(t, "v2_generate_code", `{"files":[`+files+`]}`, nil); err == nil {
			t.Errorf("%s: %v", files, got)
		}
	}
}

func quote(s string) string {
	raw, _ := json.Marshal(s)
	return string(raw)
}

// TestSearchForJSONIsBounded would take minutes without a bound.
func TestSearchForJSONIsBounded(t *testing.T) {
	for name, said := range map[string]string{
		"open braces":   strings.Repeat("{", 1<<20),
		"open lists":    strings.Repeat(`{"a":[`, 1<<17),
		"broken pieces": strings.Repeat(`{x}`, 1<<18),
		"open strings":  strings.Repeat(`{"`, 1<<19),
		"fences":        strings.Repeat("```{", 1<<18),
		"nested":        strings.Repeat(`{"a":`, 1<<17) + "1" + strings.Repeat("}", 1<<17),
	} {
		began, n := time.Now(), 0
		_, err := find(said, '{', func(any) (any, error) {
			n++
			return nil, errNoText
		})
		if err == nil || n > maxCandidates || time.Since(began) > 5*time.Second {
			t.Errorf("%s: %d candidates in %v", name, n, time.Since(began))
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, said := range []string{
		"edit", `["p5js-a"]`, "```json\n{\"message\":\"x\"}\n```", `{"files":[{"path":"index.html","content":"x"}]}`,
		`{"title":"a","description":"b","howToPlay":"c","tags":["d"]}`, `{"a":"\ud800"}`, "{\"a\":\"}\\\"\"}", "[[[[", "```", "{}",
	} {
		f.Add(said)
	}
	all := shipped()
	f.Fuzz(func(t *testing.T, said string) {
		for name, e := range all {
			got, err := e.Answer.read(said, request{}, []string{"p5js-setup"}, func(s string) bool { return strings.HasPrefix(s, "p5js-") })
			if err != nil {
				continue
			}
			raw, err := json.Marshal(got)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			// JSON encodes a byte as at most six; defaults and names add some.
			if len(raw) > 6*len(said)+1000 {
				t.Errorf("%s: %d bytes of %d", name, len(raw), len(said))
			}
			files, _ := got["files"].([]any)
			for _, file := range files {
				if path := file.(map[string]any)["path"].(string); strings.ContainsAny(path, "/\\") || strings.HasPrefix(path, ".") {
					t.Errorf("%q got through", path)
				}
			}
		}
	})
}
