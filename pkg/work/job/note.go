package job

import (
	"encoding/json"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// note is a note in the log of a job. One member is set. Together, the notes and the
// terminal event are all that is known of a job: its row in the index is made from
// them (see past.go).
type note struct {
	Job     *jobNote     `json:"job,omitempty"`     // the first one: the request
	Attempt *attemptNote `json:"attempt,omitempty"` // an attempt was admitted
	Run     *runNote     `json:"run,omitempty"`     // its agent starts
	Cut     *cutNote     `json:"cut,omitempty"`     // a stop of the service has cut it
	Cancel  *cancelNote  `json:"cancel,omitempty"`  // a request to cancel was accepted
	Made    *madeNote    `json:"made,omitempty"`    // its agent has ended well: the game is to be checked
	Checked *checkedNote `json:"checked,omitempty"` // the game was checked
	Repair  *repairNote  `json:"repair,omitempty"`  // its agent gets the findings
	End     *endNote     `json:"end,omitempty"`     // in one piece with the terminal event
}

type jobNote struct {
	At            time.Time           `json:"at"`
	User          dreamcore.UserID    `json:"user"`
	Project       dreamcore.ProjectID `json:"project"`
	Prompt        string              `json:"prompt"`
	CommitMessage string              `json:"commit_message,omitempty"`
	TestError     dreamcore.TestError `json:"test_error,omitempty"`
	Detach        bool                `json:"detach,omitempty"`
	Language      dreamcore.Language  `json:"language"`
	RequestID     string              `json:"request_id,omitempty"`
	Key           []byte              `json:"key,omitempty"`
	Digest        []byte              `json:"digest,omitempty"`
	Resume        bool                `json:"resume,omitempty"` // another process may take it up
	WebhookURL    string              `json:"webhook_url,omitempty"`
}

type attemptNote struct {
	Number int           `json:"number"` // from 1
	At     time.Time     `json:"at"`
	Used   time.Duration `json:"used,omitempty"` // of the time limit, by the attempts before
}

type runNote struct {
	At time.Time `json:"at"`
}

type cutNote struct {
	At     time.Time        `json:"at"`
	Used   time.Duration    `json:"used,omitempty"`  // of the time limit, by all attempts
	Turns  int              `json:"turns,omitempty"` // answers of the model, in all attempts
	Cost   dreamcore.Nano   `json:"nano,omitempty"`
	Tokens dreamcore.Tokens `json:"tokens"`
}

type cancelNote struct {
	At  time.Time `json:"at"`
	Why string    `json:"why"`
}

type madeNote struct {
	At time.Time `json:"at"`
}

type checkedNote struct {
	At         time.Time            `json:"at"`
	Acceptance dreamcore.Acceptance `json:"acceptance"` // in brief
}

type repairNote struct {
	At     time.Time `json:"at"`
	Number int       `json:"number"` // from 1
}

type endNote struct {
	At     time.Time             `json:"at"`
	Code   dreamcore.FailureCode `json:"code,omitempty"`
	Word   time.Time             `json:"word,omitzero"` // the agent's first one
	Exit   int                   `json:"exit"`
	Cause  string                `json:"cause,omitempty"`
	Commit string                `json:"commit,omitempty"`
	Cost   dreamcore.Nano        `json:"nano,omitempty"`
	Tokens dreamcore.Tokens      `json:"tokens"`

	Acceptance *dreamcore.Acceptance `json:"acceptance,omitempty"` // in brief
	Repairs    int                   `json:"repairs,omitempty"`
}

// short returns n without its long parts.
func (n endNote) short() endNote {
	n.Cause = ""
	if n.Acceptance != nil {
		n.Acceptance = &dreamcore.Acceptance{Verdict: n.Acceptance.Verdict, Attempt: n.Acceptance.Attempt}
	}
	return n
}

// encode returns a note for the log. Its members are texts, numbers and times.
func (n note) encode() []byte {
	raw, err := json.Marshal(n)
	if err != nil {
		panic("job: encode a note: " + err.Error())
	}
	return raw
}
