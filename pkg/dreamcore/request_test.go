package dreamcore_test

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	user    = "123e4567-e89b-42d3-a456-426614174000"
	project = "223e4567-e89b-42d3-a456-426614174000"
)

func TestRequestsAreCheckedInTheOrderOfTheContract(t *testing.T) {
	for _, tt := range []struct {
		name string
		req  dreamcore.Request
		want string // "" if valid
		code dreamcore.Code
	}{
		{"complete", dreamcore.Request{UserID: user, ProjectID: project, Prompt: "a game"}, "", ""},
		{"empty", dreamcore.Request{}, "user_id is required", dreamcore.CodeInvalid},
		{"no project", dreamcore.Request{UserID: user}, "project_id is required", dreamcore.CodeInvalid},
		{"no prompt", dreamcore.Request{UserID: user, ProjectID: project}, "prompt is required", dreamcore.CodeInvalid},
		{"a blank prompt", dreamcore.Request{UserID: user, ProjectID: project, Prompt: " \t\n　"}, "prompt is required", dreamcore.CodeInvalid},
		{"a long prompt", dreamcore.Request{UserID: user, ProjectID: project, Prompt: strings.Repeat("x", dreamcore.MaxPromptBytes+1)}, "prompt is too long: at most 400000 bytes", dreamcore.CodeTooLarge},
		{"the longest prompt", dreamcore.Request{UserID: user, ProjectID: project, Prompt: strings.Repeat("x", dreamcore.MaxPromptBytes)}, "", ""},
		{"a long prompt of few characters", dreamcore.Request{UserID: user, ProjectID: project, Prompt: strings.Repeat("あ", dreamcore.MaxPromptBytes/3+1)}, "prompt is too long: at most 400000 bytes", dreamcore.CodeTooLarge},
		{"a prompt with NUL", dreamcore.Request{UserID: user, ProjectID: project, Prompt: "a\x00b"}, "Invalid prompt: must be UTF-8 text without NUL", dreamcore.CodeInvalid},
		{"an unknown test error", dreamcore.Request{UserID: user, ProjectID: project, Prompt: "x", TestError: "boom"}, "", ""},
		{"a test error", dreamcore.Request{UserID: user, ProjectID: project, Prompt: "x", TestError: "timeout"}, "", ""},
	} {
		w, err := tt.req.Validate()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want == "" && (string(w.User) != user || string(w.Project) != project || w.Prompt != tt.req.Prompt):
			t.Errorf("%s: %+v", tt.name, w)
		case tt.want != "" && (err == nil || err.Error() != tt.want || dreamcore.CodeOf(err) != tt.code):
			t.Errorf("%s: %v (%s), want %q", tt.name, err, dreamcore.CodeOf(err), tt.want)
		}
	}
}

func TestUnknownTestErrorIsIgnored(t *testing.T) {
	for word, want := range map[string]dreamcore.TestError{
		"": "", "boom": "", "Timeout": "", "timeout ": "", "(not a string)": "", "timeout": dreamcore.TestErrorTimeout, "rate_limit": dreamcore.TestErrorRateLimit,
	} {
		w, err := dreamcore.Request{UserID: user, ProjectID: project, Prompt: "x", TestError: word}.Validate()
		if err != nil || w.TestError != want {
			t.Errorf("%q: %q, %v", word, w.TestError, err)
		}
	}
}

func TestHintOfTooLongPromptNamesTheBound(t *testing.T) {
	err := dreamcore.ValidatePrompt(strings.Repeat("word ", 200_000))
	if !strings.Contains(dreamcore.HintOf(err), "400000 bytes") {
		t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
	}
}

func TestIDsAreCanonicalUUIDs(t *testing.T) {
	for _, good := range []string{user, strings.ToUpper(user)} {
		if id, err := dreamcore.ParseUserID(good); err != nil || string(id) != user {
			t.Errorf("%s: %q, %v", good, id, err)
		}
	}
	bad := []string{
		"..", "../../../etc/passwd", "{" + user + "}", "urn:uuid:" + user, strings.ReplaceAll(user, "-", ""),
		user + "\x00", user[:35], user + " ", " " + user[1:], "123e4567-e89b-42d3-a456-42661417400g",
		"123e4567_e89b_42d3_a456_426614174000", "123e4567-e89b-42d3-a456-42661417４000", strings.Repeat("a", 10<<20),
		"../e4567-e89b-42d3-a456-426614174000",
	}
	for _, b := range bad {
		if id, err := dreamcore.ParseProjectID(b); err == nil || err.Error() != "Invalid project_id: must be UUID format" {
			t.Errorf("%.60q is taken as %q: %v", b, id, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(user)
	f.Add("{" + user + "}")
	f.Add("../../etc")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := dreamcore.ParseUserID(s)
		if err != nil {
			return
		}
		if len(id) != 36 || !strings.EqualFold(string(id), s) || strings.Trim(string(id), "0123456789abcdef-") != "" {
			t.Errorf("%q is taken as %q", s, id)
		}
	})
}
