package job

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// past is a job as its log tells it.
type past struct {
	row     record.Row
	request dreamcore.GenerateRequest
	known   bool   // the log names the request; those of earlier versions do not
	resume  bool   // another process may take the job up
	ended   bool   // it has its terminal event
	untold  bool   // its end is still to be told
	cancel  string // why it was to be cancelled; "" if it was not
	earlier earlier

	open    bool      // the last attempt was not cut by a stop
	running time.Time // when its agent was started; zero if it was not
}

// earlier is what the attempts before the current one have left.
type earlier struct {
	attempts int                   // that were begun
	crashes  int                   // of them that ended with their process
	ran      bool                  // the agent was started
	talked   bool                  // the model has answered, so the conversation has the prompt
	turns    int                   // answers of the model
	lines    int                   // of the agent in the log
	used     time.Duration         // of the time limit
	made     bool                  // the agent has ended well, and the game is to be checked
	repairs  int                   // of the game, after a check
	accepted *dreamcore.Acceptance // the last check
	failed   *dreamcore.Acceptance // the last check that failed; nil if none did, or one has passed since
	cost     dreamcore.Nano
	tokens   dreamcore.Tokens
}

// verdict returns the verdict of the last check; "" if there was none.
func (e earlier) verdict() string {
	if e.accepted == nil {
		return ""
	}
	return e.accepted.Verdict
}

// hasGame reports whether the agent has made the game: at most a check and repairs are
// left to do.
func (e earlier) hasGame() bool { return e.made || e.repairs > 0 }

// read returns the past of a job from its log. left is when the log was last
// written; the zero time means the time of its file.
func (s *Service) read(id string, left time.Time) (*past, error) {
	p := &past{row: record.Row{Job: dreamcore.Job{ID: id}}}
	var events eventReader
	account, err := s.parts.Journal.Account(id, events.read)
	if err != nil {
		return nil, err
	}
	if left.IsZero() {
		left = account.Info.ModTime()
	}
	for _, raw := range account.Notes {
		var n note
		if err := json.Unmarshal(raw, &n); err != nil {
			return nil, fmt.Errorf("%w: a note of job %s: %w", errDamaged, id, err)
		}
		p.add(n)
	}
	p.row.LastEventID, p.untold = account.LastID, account.Untold
	// Not every answer is in the log: beyond its bounds, lines are left out.
	p.earlier.talked, p.earlier.turns, p.earlier.lines = events.turns > 0, max(p.earlier.turns, events.turns), events.lines
	if !p.known {
		p.row.User, p.row.Created = dreamcore.UserID(account.Owner), left
		p.addDebug(events.debug)
	}
	if p.row.State, p.ended = dreamcore.EndState(account.Last); p.ended {
		p.addTerminal(account.Last, left)
		return p, nil
	}
	p.leave(left)
	return p, nil
}

// add adds a note.
func (p *past) add(n note) {
	row, e := &p.row, &p.earlier
	switch {
	case n.Job != nil:
		p.known, p.resume, p.request = true, n.Job.Resume, n.Job.request()
		*row = newRow(row.ID, *n.Job)
	case n.Attempt != nil:
		if p.open {
			e.crashes++
		}
		p.open, p.running = true, time.Time{}
		e.attempts, e.used = e.attempts+1, n.Attempt.Used
		row.Attempt = n.Attempt.Number
		if row.Started.IsZero() {
			row.Started = n.Attempt.At
		}
	case n.Run != nil:
		p.running, e.ran = n.Run.At, true
	case n.Cut != nil:
		p.open, p.running = false, time.Time{}
		e.used, e.turns, e.cost, e.tokens = n.Cut.Used, n.Cut.Turns, n.Cut.Cost, n.Cut.Tokens
		row.Spent(e.cost, e.tokens)
	case n.Cancel != nil:
		p.cancel = n.Cancel.Why
	case n.Made != nil:
		e.made = true
	case n.Checked != nil:
		brief := n.Checked.Acceptance.Brief() // an earlier version of the program kept more
		e.accepted = &brief
		switch brief.Verdict {
		case dreamcore.AcceptancePassed:
			e.failed = nil
		case dreamcore.AcceptanceFailed:
			e.failed = &brief
		}
		row.Acceptance = e.accepted
	case n.Repair != nil:
		e.made, e.repairs, row.Repairs = false, n.Repair.Number, n.Repair.Number
	case n.End != nil:
		row.Ended, row.Code, row.ExitCode = n.End.At, n.End.Code, &n.End.Exit
		row.Commit, row.Cause, row.FirstWord = n.End.Commit, n.End.Cause, n.End.Word
		row.Spent(n.End.Cost, n.End.Tokens)
		if row.Acceptance, row.Repairs = nil, n.End.Repairs; n.End.Acceptance != nil {
			brief := n.End.Acceptance.Brief()
			row.Acceptance = &brief
		}
	}
}

// leave completes the past of a job that has not ended: its last attempt may have
// ended with its process.
func (p *past) leave(left time.Time) {
	p.row.State = dreamcore.JobQueued
	if p.earlier.attempts > 0 {
		p.row.State = dreamcore.JobRunning
	}
	if p.open {
		p.earlier.crashes++
	}
	if !p.running.IsZero() {
		p.earlier.used += max(left.Sub(p.running), 0)
	}
}

// addTerminal completes the row of a job that has ended, where its notes do not.
func (p *past) addTerminal(last dreamcore.Event, left time.Time) {
	if !p.row.Ended.IsZero() {
		return
	}
	p.row.Ended = left
	var failure struct {
		Code dreamcore.FailureCode `json:"code"`
		Exit *int                  `json:"exitCode"`
	}
	if json.Unmarshal(last, &failure) == nil && p.row.State != dreamcore.JobSucceeded {
		p.row.Code = failure.Code
		if failure.Exit != nil {
			p.row.ExitCode = failure.Exit
		}
	}
}

// addDebug takes from the debug event what the notes do not have.
func (p *past) addDebug(e dreamcore.Event) {
	var debug struct {
		Exit   *int              `json:"exit_code"`
		Commit string            `json:"git_commit"`
		Cost   dreamcore.Dollars `json:"cost_usd"`
		Input  int64             `json:"input_tokens"`
		Output int64             `json:"output_tokens"`
	}
	if e == nil || json.Unmarshal(e, &debug) != nil {
		return
	}
	r := &p.row
	r.ExitCode, r.Commit, r.Cost, r.Input, r.Output = debug.Exit, debug.Commit, debug.Cost, debug.Input, debug.Output
}

// eventReader takes from the events of a job what a record and the next attempt need.
type eventReader struct {
	lines int             // of the agent
	turns int             // answers of the model
	id    string          // of the last one
	debug dreamcore.Event // the last debug event
}

func (r *eventReader) read(e dreamcore.Event) {
	if !isOwn(e) {
		r.lines++
	}
	if bytes.HasPrefix(e, []byte(`{"type":"debug"`)) {
		r.debug = bytes.Clone(e)
		return
	}
	if !bytes.Contains(e, []byte(`"assistant"`)) {
		return
	}
	var line struct {
		Type    string `json:"type"`
		Message struct {
			ID string `json:"id"`
		} `json:"message"`
	}
	// An answer of several parts comes as several lines with one id.
	if json.Unmarshal(e, &line) != nil || line.Type != "assistant" || r.turns > 0 && line.Message.ID != "" && line.Message.ID == r.id {
		return
	}
	r.turns, r.id = r.turns+1, line.Message.ID
}

// isOwn reports whether e is an event of the service, not a line of the agent. The
// agent may begin a line like one, but its type is another then.
func isOwn(e dreamcore.Event) bool {
	for _, kind := range []string{"status", "warning", "acceptance", "debug", "done", "error"} {
		if bytes.HasPrefix(e, []byte(`{"type":"`+kind+`"`)) {
			return dreamcore.EventType(e) == kind
		}
	}
	return false
}

// request returns the request of the job.
func (n jobNote) request() dreamcore.GenerateRequest {
	return dreamcore.GenerateRequest{
		User: n.User, Project: n.Project, Prompt: n.Prompt, CommitMessage: n.CommitMessage, TestError: n.TestError,
		Detach: n.Detach, RequestID: n.RequestID, WebhookURL: n.WebhookURL,
	}
}

// newRow returns the row of a job that was just submitted.
func newRow(id string, n jobNote) record.Row {
	return record.Row{
		Job: dreamcore.Job{
			ID: id, User: n.User, Project: n.Project, Prompt: clip(n.Prompt, dreamcore.MaxRecordPrompt), PromptBytes: len(n.Prompt),
			CommitMessage: n.CommitMessage, Language: n.Language, Detach: n.Detach, RequestID: n.RequestID, HasKey: n.Key != nil,
			WebhookURL: n.WebhookURL,
			State:      dreamcore.JobQueued, Created: n.At,
		},
		Key: n.Key, Digest: n.Digest,
	}
}

// clip shortens a text to a number of bytes, at a character.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const mark = "…"
	s = s[:most-len(mark)]
	for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	if r, _ := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && s != "" {
		s = s[:len(s)-1] // the first byte of a character that was cut
	}
	return s + mark
}

// cause returns an error as a record keeps it: bounded, on one line, without
// secrets.
func (s *Service) cause(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if s.parts.Redact != nil {
		text = s.parts.Redact(text) // before it is cut: half a secret would not be found
	}
	return clip(strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " "), dreamcore.MaxCause)
}
