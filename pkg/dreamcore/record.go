package dreamcore

import (
	"bytes"
	"encoding/json"
	"time"
)

// MaxRecordPrompt bounds the prompt in a record, in bytes. The whole prompt is in
// the log of the job.
const MaxRecordPrompt = 1000

// MaxCause bounds the cause in a record, in bytes.
const MaxCause = 1000

// MaxRequestID and MaxIdempotencyKey bound what a client may send, in bytes.
const (
	MaxRequestID      = 128
	MaxIdempotencyKey = 255
)

// Job is the record of a job: its request, its user, and how it went. The
// JSON form is that of GET /jobs. Members that are not known yet are left out.
type Job struct {
	ID      string    `json:"id"`
	User    UserID    `json:"user_id"`
	Project ProjectID `json:"project_id"`

	// The request.
	Prompt        string   `json:"prompt"`                   // its beginning, up to MaxRecordPrompt
	PromptBytes   int      `json:"prompt_bytes"`             // length of the whole prompt
	CommitMessage string   `json:"commit_message,omitempty"` // as in the request
	Language      Language `json:"language,omitempty"`       // of the messages to the player
	Detach        bool     `json:"detach,omitempty"`
	RequestID     string   `json:"request_id,omitempty"` // that the client sent, for its own logs
	HasKey        bool     `json:"idempotent,omitempty"` // it was submitted with an idempotency key
	WebhookURL    string   `json:"webhook_url,omitempty"`

	// What became of it.
	State           JobState  `json:"state"`
	CancelRequested bool      `json:"cancel_requested,omitempty"` // and it has not ended yet
	Position        int       `json:"queue_position,omitempty"`   // in the queue, from 1; 0 unless it is queued
	Attempt         int       `json:"attempt"`                    // that runs, or the last one; 0 before the first
	Created         time.Time `json:"created"`
	Started         time.Time `json:"started,omitzero"`    // of the first attempt
	FirstWord       time.Time `json:"first_word,omitzero"` // when the agent said something first, in the last attempt
	Ended           time.Time `json:"ended,omitzero"`
	LastEventID     uint64    `json:"last_event_id"`

	// The result of all attempts. Until the job has ended, cost and tokens are
	// those of the attempts before this one.
	Cost   Dollars `json:"cost_usd"`
	Input  int64   `json:"input_tokens"` // including cache reads and writes
	Output int64   `json:"output_tokens"`
	Commit string  `json:"commit,omitempty"`
	// Acceptance is the last check of the game with its findings; nil if there was none.
	Acceptance *Acceptance `json:"acceptance,omitempty"`
	Repairs    int         `json:"repairs,omitempty"`   // of the agent, after a check
	ExitCode   *int        `json:"exit_code,omitempty"` // nil until it has ended
	Code       FailureCode `json:"code,omitempty"`      // "" unless it failed or was cancelled
	Cause      string      `json:"cause,omitempty"`     // for the operator: why it failed or was cancelled; never for players
}

// Final reports whether the job has ended.
func (j Job) Final() bool { return j.State.Final() }

// Final reports whether a job in this state has ended.
func (s JobState) Final() bool { return s == JobSucceeded || s == JobFailed || s == JobCancelled }

// ParseJobState accepts the states of a job.
func ParseJobState(s string) (JobState, error) {
	switch state := JobState(s); state {
	case JobQueued, JobRunning, JobSucceeded, JobFailed, JobCancelled:
		return state, nil
	}
	return "", &Error{
		Code: CodeInvalid, Message: "Invalid state: must be queued, running, succeeded, failed or cancelled",
		Hint: "leave it out for jobs in every state",
	}
}

// JobFilter selects records. The zero value selects all.
type JobFilter struct {
	User    UserID
	Project ProjectID
	State   JobState
	Since   time.Time // created at this time or later; zero for no bound
	Until   time.Time // created before this time; zero for no bound

	Limit  int    // records of a page; 0 means DefaultPage, more than MaxPage means MaxPage
	Cursor string // Next of the page before; "" for the first page
}

// Sizes of a page of records.
const (
	DefaultPage = 50
	MaxPage     = 1000
)

// JobPage is a part of a list of records, the newest first.
type JobPage struct {
	Jobs []Job  `json:"jobs"`
	Next string `json:"next,omitempty"` // the cursor of the next page; "" after the last one
}

// Dollars is an amount of money whose JSON form is a number of dollars.
type Dollars Nano

// MarshalJSON returns the amount as a number with six decimals.
func (d Dollars) MarshalJSON() ([]byte, error) { return []byte(Nano(d).String()), nil }

// UnmarshalJSON accepts what MarshalJSON returns.
func (d *Dollars) UnmarshalJSON(b []byte) error {
	var n json.Number
	if err := json.Unmarshal(bytes.TrimSpace(b), &n); err != nil {
		return err
	}
	amount, err := ParseNano(n.String())
	*d = Dollars(amount)
	return err
}
