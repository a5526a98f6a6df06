package dreamcore

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxPromptBytes bounds a prompt. The CLI refuses a longer one before it asks
// the model ("Prompt is too long"). It counts UTF-16 units, whatever the text
// is: 2.1.330 takes 525,000 and refuses 530,000. The model counts tokens, of
// which text that is not ASCII has more for each unit and fewer for each byte,
// so the bound is in bytes. What is left is for skills, for the conversation so
// far and for the agent's own work.
const MaxPromptBytes = 400_000

// MaxCommitMessageBytes bounds the name of a version in a request. Longer than
// a line of 72 characters it is cut; this long it is a mistake.
const MaxCommitMessageBytes = 4096

// Request is the JSON body of POST /generate_game, not yet checked.
type Request struct {
	// CommitMessage is the name of the version that the job makes; optional.
	CommitMessage string `json:"commit_message,omitempty"`

	UserID    string `json:"user_id"`
	ProjectID string `json:"project_id"`
	Prompt    string `json:"prompt"`
	TestError string `json:"_test_error,omitempty"`
	Detach    bool   `json:"detach,omitempty"` // the job runs on when its client has gone
}

// GenerateRequest is a checked Request.
type GenerateRequest struct {
	CommitMessage string // "" if unset

	User      UserID
	Project   ProjectID
	Prompt    string
	TestError TestError
	Detach    bool
}

// Validate checks the fields in the order of the contract and returns the
// first fault as an Error with CodeInvalid (CodeTooLarge for a long prompt).
func (r Request) Validate() (GenerateRequest, error) {
	user, err := ParseUserID(r.UserID)
	if err != nil {
		return GenerateRequest{}, err
	}
	project, err := ParseProjectID(r.ProjectID)
	if err != nil {
		return GenerateRequest{}, err
	}
	if err := ValidatePrompt(r.Prompt); err != nil {
		return GenerateRequest{}, err
	}
	if len(r.CommitMessage) > MaxCommitMessageBytes || strings.ContainsRune(r.CommitMessage, 0) {
		return GenerateRequest{}, ErrCommitMessage()
	}
	return GenerateRequest{
		User: user, Project: project, Prompt: r.Prompt, TestError: parseTestError(r.TestError),
		Detach: r.Detach, CommitMessage: r.CommitMessage,
	}, nil
}

// ErrCommitMessage is the error of a commit_message that names no version.
func ErrCommitMessage() error {
	return &Error{
		Code: CodeInvalid, Message: "Invalid commit_message: must be text without NUL, of at most 4096 bytes",
		Hint: "send one line of at most 72 characters, or leave it out",
	}
}

// ValidatePrompt refuses prompts that the CLI would silently ignore (white
// space only), that are too long, or that are no text.
func ValidatePrompt(p string) error {
	switch {
	case strings.TrimSpace(p) == "":
		return &Error{Code: CodeInvalid, Message: "prompt is required", Hint: "say what game to make"}
	case len(p) > MaxPromptBytes:
		return &Error{
			Code:    CodeTooLarge,
			Message: fmt.Sprintf("prompt is too long: at most %d bytes", MaxPromptBytes),
			Hint:    fmt.Sprintf("shorten the prompt to %d bytes of UTF-8, or put the material into the project with apply_files and let the agent read it", MaxPromptBytes),
		}
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

// parseTestError returns TestErrorNone for a failure that it does not know, as
// the old backend did: a front end that is newer still gets its game.
func parseTestError(s string) TestError {
	t := TestError(s)
	if _, ok := t.Failure(); !ok {
		return TestErrorNone
	}
	return t
}
