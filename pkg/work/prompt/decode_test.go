package prompt

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// smallFile is a file with the required members only.
const smallFile = `
fields:
  message: {type: string, required: true}
model: haiku
prompt: "{{.message}}"
answer: {kind: text, key: result}
failure: {status: 502, body: {error: "{{sentence}}"}}
`

func TestShippedEndpointsMatchTheContract(t *testing.T) {
	want := "chat_haiku chat_sonnet detect_intent detect_skills generate_publish_info v2_chat_haiku v2_detect_intent v2_generate_code"
	if got := strings.Join(Shipped(), " "); got != want {
		t.Errorf("embedded are %s", got)
	}
}

func TestAllErrorsOfFileAreReported(t *testing.T) {
	file := `
colour: red
description: 5
fields:
  "bad name": {}
  message: {type: text, required: maybe, max_bytes: 0, size: 1}
  number: {type: number, default: five, max_items: 3}
  must: {required: true, default: x}
model: "two words"
max_tokens: 1e9
timeout: 10
system: "{{.nothing}} {{printf .message}}"
prompt: "{{template \"x\"}}"
answer:
  kind: object
  key: x
  words: [a]
  raw: message
  plain: files
  members:
    files: {type: list, max_bytes: 5}
    name: {type: string, file_names: ["../*"]}
    deep: {type: object}
failure: {status: 302, body: 5}
invalid: {status: 500, guess: {field: nothing, otherwise: x}}
`
	_, err := Parse("Bad-Name", []byte(file))
	if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{
		`the name "Bad-Name" must be`, "colour (line 2): is unknown here", "description (line 3): must be a string",
		"fields.bad name (line 5): must be a name", `fields.message.type (line 6): "text" is not a type`,
		"fields.message.required (line 6): must be true or false", "fields.message.max_bytes (line 6): must be a whole number",
		"fields.message.size (line 6): is unknown", "fields.number.default (line 7): must be a number", "fields.number.max_items (line 7): is for lists",
		"fields.must.default (line 8): is never used", "model (line 9)", "max_tokens (line 10)", "timeout (line 11)",
		`system (line 12): "nothing" is not a field of the request`, "the function printf is not available", "prompt (line 13)",
		"answer.key (line 16): is not for answers of the kind object", "answer.words (line 17)", `answer.raw (line 18): "message" is not a field of the type bool`,
		`answer.plain (line 19): "files" is not a member`, "answer.members.files.max_bytes (line 21): is for the type string",
		"answer.members.files.items: is missing", "answer.members.name.file_names (line 22)", "answer.members.deep.members: is missing",
		"failure.status (line 24): must be 200", "failure.body (line 24): must be a mapping", "invalid.guess (line 25): is for answers of the kind words",
		`"nothing" is not a field of the type string`, `"x" is not one of the answer's words`,
	} {
		path, rest, _ := strings.Cut(want, ": is missing")
		found := strings.Contains(err.Error(), want)
		if rest == "" && path != want {
			found = regexp.MustCompile(regexp.QuoteMeta(path) + ` \(line \d+\): is missing`).MatchString(err.Error())
		}
		if !found {
			t.Errorf("%q is not named", want)
		}
	}
	if t.Failed() {
		t.Log(strings.ReplaceAll(err.Error(), "; ", "\n"))
	}
}

func TestInvalidFilesAreRejected(t *testing.T) {
	for file, want := range map[string]string{
		"":                                    "the file is empty",
		"- a":                                 "not a mapping",
		"a: [":                                "not YAML",
		"model: a\n---\nmodel: b":             "more than one document",
		"model: a":                            "prompt: is missing; answer: is missing; failure: is missing",
		smallFile + "model: b":                "model (line 8): is a duplicate",
		"a: &x 1\nb: *x":                      "b (line 2): must not be an alias",
		strings.Repeat("#", 65<<10):           "larger than",
		"fields: {a: {<<: {b: 1}}}":           "not a plain name",
		"prompt: '{{range}}'":                 "prompt (line 1): is not a template",
		"prompt: '{{define \"a\"}}x{{end}}y'": "must not define other templates",
		"failure: {status: 500}":              "needs either guess or body",
		"answer: {kind: words, key: k}":       "answer.words (line 1): is missing",
	} {
		if _, err := Parse("test_it", []byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v; want %q", file, err, want)
		}
	}
}

func TestEndpointNames(t *testing.T) {
	for name, want := range map[string]bool{
		"detect_intent": true, "v2_chat": true, "a": true, "": false, "Detect": false, "_a": false, "a_": false, "a__b": false, "a-b": false,
		"a/b": false, "2a": false, strings.Repeat("a", 41): false,
	} {
		if isName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// TestDocumentedExampleParses parses the file in api.md.
func TestDocumentedExampleParses(t *testing.T) {
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Prompt endpoints\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) == 0 {
		t.Fatal("the page shows no file")
	}
	for _, b := range blocks {
		if _, err := Parse("name_ideas", []byte(b[1])); err != nil {
			t.Errorf("%v\n%s", err, b[1])
		}
	}
	keys := regexp.MustCompile(`d\.members\(n((?:, "[a-z_]+")+)\)`)
	source, err := os.ReadFile("decode.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range keys.FindAllStringSubmatch(string(source), -1) {
		for _, key := range regexp.MustCompile(`[a-z_]+`).FindAllString(call[1], -1) {
			if !strings.Contains(section, "`"+key+"`") {
				t.Errorf("the page does not tell of the key %s", key)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(smallFile))
	for _, name := range Shipped() {
		f.Add(shipped()[name].Text)
	}
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("prompt: '{{range $i, $x := .a}}{{.}}{{else}}{{end}}'\nfields: {a: {type: list}}"))
	f.Fuzz(func(t *testing.T, file []byte) {
		e, err := Parse("test_it", file)
		if (e == nil) == (err == nil) {
			t.Fatal("neither an endpoint nor an error")
		}
		if err != nil {
			return
		}
		r, err := e.read([]byte(`{"message":"x","prompt":"y","user_id":"","a":[1,2,[3]]}`))
		if err != nil {
			return
		}
		v := &view{skills: func() []Skill { return nil }, files: func() ([]any, error) { return nil, nil }}
		if text, err := e.prompt.run(r.values, v); err == nil && len(text) > maxOutput {
			t.Errorf("%d bytes of text", len(text))
		}
	})
}
