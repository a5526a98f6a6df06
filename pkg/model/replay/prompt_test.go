package replay

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// askPrompt sends a request like a prompt endpoint.
func askPrompt(t *testing.T, m *Model, name, message string) (int, string) {
	t.Helper()
	body := `{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"` + message + `"}]}`
	req := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/messages", strings.NewReader(body))
	req.Header.Set(dreamcore.PromptHeader, name)
	w := httptest.NewRecorder()
	m.ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

func TestPromptEndpointGetsItsOwnAnswer(t *testing.T) {
	s, err := Parse([]byte(`{"conversations": [[{"text": "a game"}]], "prompts": {
		"intent": [{"contains": ["UNDO", "戻して"], "text": "restore"}, {"fail": {"status": 529, "times": 1}, "text": "edit"}],
		"info": [{"json": {"title": [1, 2]}}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	m := New(s)
	for _, tt := range []struct {
		name, message string
		status        int
		want          string
	}{
		{"intent", "please undo it", 200, `"text":"restore"`},
		{"intent", "戻してください", 200, `"text":"restore"`},
		{"intent", "faster", 529, "overloaded_error"},
		{"intent", "faster", 200, `"text":"edit"`},
		{"info", "x", 200, `{\"title\":[1,2]}`},
		{"unknown", "x", 200, "Replayed session"},
	} {
		if status, body := askPrompt(t, m, tt.name, tt.message); status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %q: status %d, %s; want %d with %s", tt.name, tt.message, status, body, tt.status, tt.want)
		}
	}
}

func TestInvalidPromptsOfScriptAreRejected(t *testing.T) {
	for script, want := range map[string]string{
		`[]`:                                  "prompts must be an object",
		`{"a": {}}`:                           "prompts.a must be a list",
		`{"a": []}`:                           "prompts.a is empty",
		`{"a": [{}]}`:                         "prompts.a[0] is an empty answer",
		`{"a": [{"text": "x", "json": 1}]}`:   "prompts.a[0].json cannot be used together with text",
		`{"a": [{"text": "x", "tools": []}]}`: "prompts.a[0].tools is an unknown field",
		`{"a": [{"text": "x", "contains": "b"}]}`:   "prompts.a[0].contains must be a list",
		`{"a": [{"fail": {}}]}`:                     "prompts.a[0].fail does not set exactly one",
		`{"a": [{"text": "x", "contains": [1]}]}`:   "prompts.a[0].contains[0] must be a string",
		`{"a": [{"text": "x"}], "a": [{"text":1}]}`: "prompts.a is a duplicate",
	} {
		_, err := Parse([]byte(`{"conversations": [[{"text": "x"}]], "prompts": ` + script + `}`))
		if err == nil || !strings.Contains(err.Error(), want) || dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%s: %v; want %q", script, err, want)
		}
	}
}

func TestDemoAnswersDetectIntent(t *testing.T) {
	m := New(Demo())
	for message, want := range map[string]string{
		"make a snake game": "edit", "もっと速くして": "edit", "what are the controls?": "chat", "操作方法を教えて": "chat",
		"undo that": "restore", "前のバージョンに戻して": "restore",
	} {
		for _, name := range []string{"detect_intent", "v2_detect_intent"} {
			if status, body := askPrompt(t, m, name, message); status != http.StatusOK || !strings.Contains(body, `"text":"`+want+`"`) {
				t.Errorf("%s %q: %d %s, want %s", name, message, status, body, want)
			}
		}
	}
}
