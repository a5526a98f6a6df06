package prompt

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func render(t *testing.T, source string, values map[string]any, v *view) (string, error) {
	t.Helper()
	scope := map[string]bool{}
	for name := range values {
		scope[name] = true
	}
	tpl, err := parseTemplate("test", source, scope)
	if err != nil {
		t.Fatal(err)
	}
	if v == nil {
		v = &view{}
	}
	return tpl.run(values, v)
}

func TestFunctionsWithoutAValueSayIt(t *testing.T) {
	for source, want := range map[string]string{
		"{{skills}}": "there are no skills here", "{{files}}": "there are no files here", "{{sentence}}": "sentence is for",
	} {
		if out, err := render(t, source, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v", source, out, err)
		}
	}
}

func TestTemplateFunctions(t *testing.T) {
	values := map[string]any{
		"s": "héllo wörld", "jp": "日本語", "n": 2.5, "b": true, "list": []any{"a", "b", "c"}, "m": map[string]any{"k": "<v>"}, "empty": "", "null": nil,
		"talk": []any{map[string]any{"role": "user", "content": "hi"}, map[string]any{"role": "assistant", "content": "yo"}},
	}
	v := &view{
		lang: dreamcore.Japanese, sentence: func() string { return "sorry" },
		skills: func() []Skill { return []Skill{{"p5js-setup", "sets p5.js up"}} },
		files:  func() ([]any, error) { return []any{map[string]any{"path": "index.html", "content": "<p>"}}, nil },
	}
	for source, want := range map[string]string{
		`{{firstBytes 2 .s}}`:  "h",
		`{{firstBytes 3 .s}}`:  "hé",
		`{{firstBytes 4 .jp}}`: "日",
		`{{firstBytes 2 .jp}}`: "",
		`{{firstBytes 0 .s}}`:  "",
		`{{firstBytes 99 .s}}`: "héllo wörld",
		`{{firstBytes 5 .m}}`:  `{"k":`,
		`{{text .m}}`:          `{"k":"<v>"}`,
		`{{text .n}} {{text .b}} {{text .list}}{{text .null}}`:   `2.5 true ["a","b","c"]`,
		`{{range lastItems 2 .list}}{{.}}{{end}}`:                "bc",
		`{{range lastItems 9 .list}}{{.}}{{end}}`:                "abc",
		`{{range lastItems 0 .list}}{{.}}{{else}}none{{end}}`:    "none",
		`{{range .talk}}{{.role}}: {{.content}};{{end}}`:         "user: hi;assistant: yo;",
		`{{range $i, $x := .list}}{{$i}}{{$x}}{{end}}`:           "0a1b2c",
		`{{lang "yes" "はい"}}`:                                    "はい",
		`{{sentence}}`:                                           "sorry",
		`{{range skills}}{{.name}}={{.description}}{{end}}`:      "p5js-setup=sets p5.js up",
		`{{range files}}{{.path}}:{{.content}}{{end}}`:           "index.html:<p>",
		`{{trim "  x "}}{{with .empty}}never{{else}}else{{end}}`: "xelse",
		`{{$.s}}{{with .m}}{{$.n}}{{end}}`:                       "héllo wörld2.5",
	} {
		got, err := render(t, source, values, v)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", source, got, err, want)
		}
	}
}

func TestTemplatesAreBounded(t *testing.T) {
	long := make([]any, 2000)
	for i := range long {
		long[i] = "x"
	}
	values := map[string]any{"list": long, "big": strings.Repeat("y", 1<<19)}
	for source, want := range map[string]error{
		`{{range .list}}{{range $.list}}{{end}}{{end}}`:                         errSteps,
		`{{range .list}}{{range $.list}}{{$x := 1}}{{end}}{{end}}`:              errSteps,
		`{{range 1000000000}}{{end}}`:                                           errSteps,
		`{{range .list}}{{$.big}}{{end}}`:                                       errOutput,
		`{{.big}}{{.big}}{{.big}}`:                                              errOutput,
		`{{$x := .big}}{{range 9}}{{$x = print $x $x}}{{end}}`:                  errOutput,
		`{{$x := .big}}{{range 9}}{{$x = println $x $x}}{{end}}`:                errOutput,
		`{{$x := .big}}{{range 99}}{{$x = html $x "<<<<<<<"}}{{end}}`:           errOutput,
		`{{$x := "<"}}{{range 99}}{{$x = urlquery $x}}{{$x = js $x $x}}{{end}}`: errOutput,
		`{{$x := .big}}{{range 99}}{{$x = text $.list | print $x}}{{end}}`:      errOutput,
	} {
		// In a bubble, the bound of the time is never met first, however slow the machine is.
		synctest.Test(t, func(t *testing.T) {
			if got, err := render(t, source, values, nil); !errors.Is(err, want) || got != "" {
				t.Errorf("%s: %d bytes, %v", source, len(got), err)
			}
		})
	}
}

func TestTheTimeOfATemplateIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &view{files: func() ([]any, error) { time.Sleep(templateTime / 2); return nil, nil }}
		if _, err := render(t, `{{files}}{{range 9}}{{end}}`, nil, v); err != nil {
			t.Errorf("within the bound: %v", err)
		}
		if _, err := render(t, `{{files}}{{files}}{{files}}{{range 9}}{{end}}`, nil, v); !errors.Is(err, errSteps) {
			t.Errorf("beyond it: %v", err)
		}
	})
}

func TestTemplatesCallOnlyTheirFunctions(t *testing.T) {
	for source, want := range map[string]string{
		`{{call .s}}`:                        "call is not available",
		`{{printf "%9d" 1}}`:                 "printf is not available",
		`{{with printf "%9d" 1}}{{end}}`:     "printf is not available",
		`{{range .s | printf "%s"}}{{end}}`:  "printf is not available",
		`{{if (call .s)}}{{end}}`:            "call is not available",
		`{{block "a" .}}{{end}}`:             "must not define",
		`{{.unknown}}`:                       `"unknown" is not a field`,
		`{{range .s}}{{$.unknown}}{{end}}`:   `"unknown" is not a field`,
		`{{if true}}{{(.unknown).x}}{{end}}`: `"unknown" is not a field`,
		`{{` + tick + `}}`:                   "internal",
		`{{exec "x"}}`:                       `function "exec" not defined`,
		`{{template "test"}}`:                "template",
	} {
		if _, err := parseTemplate("test", source, map[string]bool{"s": true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", source, err, want)
		}
	}
	if got, err := render(t, `{{.s.Method}}`, map[string]any{"s": "x"}, nil); err == nil {
		t.Errorf("a text has a method: %q", got)
	}
}

func FuzzFirstBytes(f *testing.F) {
	f.Add("日本語", 4)
	f.Add("", -1)
	f.Fuzz(func(t *testing.T, s string, n int) {
		got, err := firstBytes(n, s)
		if err != nil || !strings.HasPrefix(s, got) || len(got) > max(n, 0) {
			t.Errorf("%q, %v", got, err)
		}
		if utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Errorf("%s", fmt.Sprintf("%q is no text", got))
		}
	})
}
