package dreamcore

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxPromptBytes bounds a prompt. The CLI rejects a longer one before it calls
// the model ("Prompt is too long"). It counts UTF-16 units: version 2.1.330
// accepts 525,000 and rejects 530,000. The model counts tokens. Text that is
// not ASCII has more tokens per unit but fewer per byte, so the bound is in
// bytes. The remaining context is for skills, for the conversation so far and
// for the agent's own work.
const MaxPromptBytes = 400_000

// MaxCommitMessageBytes bounds the commit message in a request. The message is
// shortened to a line of 72 characters; one over this bound is an error.
const MaxCommitMessageBytes = 4096

// Request is the JSON body of POST /generate_game, not yet checked.
type Request struct {
	// CommitMessage is the name of the version that the job saves; optional.
	CommitMessage string `json:"commit_message,omitempty"`

	UserID    string `json:"user_id"`
	ProjectID string `json:"project_id"`
	Prompt    string `json:"prompt"`
	TestError string `json:"_test_error,omitempty"`
	Detach    bool   `json:"detach,omitempty"` // the job continues after its client disconnects

	// WebhookURL is where the end of the job is reported, in addition to the
	// configured webhooks; optional.
	WebhookURL string `json:"webhook_url,omitempty"`
}

// GenerateRequest is a checked Request.
type GenerateRequest struct {
	CommitMessage string // "" if unset

	User      UserID
	Project   ProjectID
	Prompt    string
	TestError TestError
	Detach    bool

	// IdempotencyKey makes a repetition of the request join the job of the first
	// one; "" if unset. It is stored as a hash only.
	IdempotencyKey string
	RequestID      string // that the client knows the request by; "" if unset
	WebhookURL     string // not checked yet against the configured hosts; "" if unset
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
		Detach: r.Detach, CommitMessage: r.CommitMessage, WebhookURL: r.WebhookURL,
	}, nil
}

// ErrCommitMessage returns the error for an invalid commit_message.
func ErrCommitMessage() error {
	return &Error{
		Code: CodeInvalid, Message: "Invalid commit_message: must be text without NUL, of at most 4096 bytes",
		Hint: "send one line of at most 72 characters, or omit it",
	}
}

// ValidatePrompt rejects prompts that the CLI would silently ignore (white
// space only), that are too long, or that are not text.
func ValidatePrompt(p string) error {
	switch {
	case strings.TrimSpace(p) == "":
		return &Error{Code: CodeInvalid, Message: "prompt is required", Hint: "describe the game to make"}
	case len(p) > MaxPromptBytes:
		return &Error{
			Code:    CodeTooLarge,
			Message: fmt.Sprintf("prompt is too long: at most %d bytes", MaxPromptBytes),
			Hint:    fmt.Sprintf("shorten the prompt to %d bytes of UTF-8, or upload the material into the project with apply_files and let the agent read it", MaxPromptBytes),
		}
	case !utf8.ValidString(p) || strings.ContainsRune(p, 0):
		return &Error{Code: CodeInvalid, Message: "Invalid prompt: must be UTF-8 text without NUL"}
	}
	return nil
}

// TestError is a failure that the server simulates on request, so that a front
// end can test its error handling.
type TestError string

// The values of _test_error.
const (
	TestErrorNone      TestError = ""
	TestErrorTimeout   TestError = "timeout"
	TestErrorGeneral   TestError = "general"
	TestErrorSandbox   TestError = "sandbox"
	TestErrorNetwork   TestError = "network"
	TestErrorRateLimit TestError = "rate_limit"
)

var simulated = map[TestError]Failure{
	TestErrorTimeout:   ExitFailure(ExitTimeout),
	TestErrorGeneral:   ExitFailure(1),
	TestErrorSandbox:   {Code: FailSandbox},
	TestErrorNetwork:   {Code: FailNetwork},
	TestErrorRateLimit: {Code: FailRateLimit},
}

// Failure returns the failure that t simulates; ok is false for TestErrorNone.
func (t TestError) Failure() (f Failure, ok bool) {
	f, ok = simulated[t]
	return f, ok
}

// parseTestError returns TestErrorNone for an unknown failure, as the old
// backend did: a newer front end still gets its game.
func parseTestError(s string) TestError {
	t := TestError(s)
	if _, ok := t.Failure(); !ok {
		return TestErrorNone
	}
	return t
}
