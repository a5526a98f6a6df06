package dreamcore

import (
	"strings"
	"unicode/utf8"
)

// MaxPromptBytes bounds a prompt. The CLI takes 10 MB; a wish does not need it.
const MaxPromptBytes = 1 << 20

// MaxCommitMessageBytes bounds the name of a version in a request. Longer than
// a line of 72 characters it is cut; this long it is a mistake.
const MaxCommitMessageBytes = 4096

// Request is the wish for a game, as POST /generate_game carries it.
type Request struct {
	// CommitMessage is the name of the version that the job makes; optional.
	CommitMessage string `json:"commit_message,omitempty"`

	UserID    string `json:"user_id"`
	ProjectID string `json:"project_id"`
	Prompt    string `json:"prompt"`
	TestError string `json:"_test_error,omitempty"`
	Detach    bool   `json:"detach,omitempty"` // the job runs on when its client has gone
}

// Wish is a validated Request.
type Wish struct {
	CommitMessage string // "" if unset

	User      UserID
	Project   ProjectID
	Prompt    string
	TestError TestError
	Detach    bool
}

// Validate checks the fields in the order of the contract and returns the
// first fault as an Error with CodeInvalid (CodeTooLarge for a long prompt).
func (r Request) Validate() (Wish, error) {
	user, err := ParseUserID(r.UserID)
	if err != nil {
		return Wish{}, err
	}
	project, err := ParseProjectID(r.ProjectID)
	if err != nil {
		return Wish{}, err
	}
	if err := ValidatePrompt(r.Prompt); err != nil {
		return Wish{}, err
	}
	test, err := parseTestError(r.TestError)
	if err != nil {
		return Wish{}, err
	}
	if len(r.CommitMessage) > MaxCommitMessageBytes || strings.ContainsRune(r.CommitMessage, 0) {
		return Wish{}, &Error{
			Code: CodeInvalid, Message: "Invalid commit_message: must be text without NUL, of at most 4096 bytes",
			Hint: "send one line of at most 72 characters, or leave it out",
		}
	}
	return Wish{
		User: user, Project: project, Prompt: r.Prompt, TestError: test,
		Detach: r.Detach, CommitMessage: r.CommitMessage,
	}, nil
}

// ValidatePrompt refuses prompts that the CLI would silently ignore (white
// space only), that are too long, or that are no text.
func ValidatePrompt(p string) error {
	switch {
	case strings.TrimSpace(p) == "":
		return &Error{Code: CodeInvalid, Message: "prompt is required", Hint: "say what game to make"}
	case len(p) > MaxPromptBytes:
		return &Error{Code: CodeTooLarge, Message: "prompt is too long: at most 1 MiB", Hint: "shorten the prompt"}
	case !utf8.ValidString(p) || strings.ContainsRune(p, 0):
		return &Error{Code: CodeInvalid, Message: "Invalid prompt: must be UTF-8 text without NUL"}
	}
	return nil
}

// TestError names a failure that the server plays on request, so that a front
// end can test how it shows errors.
type TestError string

// The failures that _test_error knows.
const (
	TestErrorNone      TestError = ""
	TestErrorTimeout   TestError = "timeout"
	TestErrorGeneral   TestError = "general"
	TestErrorSandbox   TestError = "sandbox"
	TestErrorNetwork   TestError = "network"
	TestErrorRateLimit TestError = "rate_limit"
)

// Failure returns the failure that t plays; ok is false for TestErrorNone.
func (t TestError) Failure() (f Failure, ok bool) {
	switch t {
	case TestErrorTimeout:
		return ExitFailure(ExitTimeout), true
	case TestErrorGeneral:
		return ExitFailure(1), true
	case TestErrorSandbox:
		return Failure{Code: FailSandbox}, true
	case TestErrorNetwork:
		return Failure{Code: FailNetwork}, true
	case TestErrorRateLimit:
		return Failure{Code: FailRateLimit}, true
	}
	return Failure{}, false
}

func parseTestError(s string) (TestError, error) {
	t := TestError(s)
	if _, ok := t.Failure(); ok || t == TestErrorNone {
		return t, nil
	}
	return "", &Error{
		Code:    CodeInvalid,
		Message: "Invalid _test_error: must be one of timeout, general, sandbox, network, rate_limit",
	}
}
