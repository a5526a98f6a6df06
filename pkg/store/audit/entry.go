// Package audit keeps the audit log: requests for the model and for the network,
// refusals, sandboxes, operator commands. It consists of JSON lines in a directory,
// the current file audit.ndjson and older files, to which every process of the
// state directory appends.
//
//	log, err := audit.Open(dir, audit.Options{Redact: redactor.Redact})
//	log.Record(audit.Entry{Event: audit.EventModel, User: user, Verdict: audit.Allowed})
//	err = log.Close()
//
// A record is one write to a file that is open for appending, which Linux does in
// one piece, and it begins with a newline, which ends the torn line of a process
// that died: so writers need no lock. A record survives the end of its process at
// once and a power cut after at most a second; a refusal is on the disk before
// Record returns.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Events.
const (
	EventModel        = "model"         // a request for the model
	EventEgress       = "egress"        // a sandbox tried to reach a host
	EventToken        = "token"         // a sandbox used a wrong token
	EventSandboxStart = "sandbox_start" // a sandbox was created
	EventSandboxStop  = "sandbox_stop"  // a sandbox was stopped
	EventJob          = "job"           // a job was refused before it started
	EventOperator     = "operator"      // an operator ran a command
	EventAuth         = "auth"          // a request to the HTTP API had a wrong secret
	EventSecret       = "secret"        // a secret was replaced
	EventLost         = "lost"          // records could not be written
)

// Verdict is the outcome of the recorded action.
type Verdict string

// Verdicts.
const (
	Allowed Verdict = "allowed"
	Refused Verdict = "refused"
	Failed  Verdict = "failed" // allowed, but did not succeed
)

// Entry is one record. Its text may come from anywhere: it is bounded, and secrets
// are redacted. BytesOut were sent to the upstream, BytesIn received from it.
type Entry struct {
	Time     time.Time        `json:"time"` // zero means now
	Event    string           `json:"event"`
	Verdict  Verdict          `json:"verdict,omitempty"`
	Job      string           `json:"job,omitempty"`
	User     string           `json:"user,omitempty"`
	Project  string           `json:"project,omitempty"`
	Sandbox  string           `json:"sandbox,omitempty"`
	Upstream string           `json:"upstream,omitempty"`
	Model    string           `json:"model,omitempty"`
	Method   string           `json:"method,omitempty"`
	Target   string           `json:"target,omitempty"` // path, address, or object of a command
	Status   int              `json:"status,omitempty"` // HTTP status
	BytesIn  int64            `json:"bytes_in,omitempty"`
	BytesOut int64            `json:"bytes_out,omitempty"`
	Tokens   dreamcore.Tokens `json:"-"`
	Cost     dreamcore.Nano   `json:"-"`
	Reason   string           `json:"reason,omitempty"`

	// Suppressed is the number of earlier refusals of the same kind and sandbox
	// that came too fast to be recorded one by one.
	Suppressed int64 `json:"suppressed,omitempty"`
}

// line is the encoding of an Entry.
type line struct {
	Entry
	tokens
	Cost json.Number `json:"cost_usd,omitempty"`
}

// tokens are the fields of dreamcore.Tokens as they are encoded.
type tokens struct {
	Input        int64 `json:"input_tokens,omitempty"`
	Output       int64 `json:"output_tokens,omitempty"`
	CacheWrite   int64 `json:"cache_write_tokens,omitempty"`
	CacheWrite1h int64 `json:"cache_write_1h_tokens,omitempty"`
	CacheRead    int64 `json:"cache_read_tokens,omitempty"`
}

// Bounds of text in a record.
const (
	maxShort = 256
	maxLong  = 1024
	maxRaw   = 16 << 10 // before redaction: far more than is kept, so that cutting there splits no secret in the kept part
	maxLine  = 32 << 10 // more than the longest record with every byte escaped
)

// encode returns the entry as it is appended to the log.
func (e Entry) encode(redact func(string) string) ([]byte, error) {
	l := line{Entry: e, tokens: tokens(e.Tokens)}
	l.Time = e.Time.UTC().Truncate(time.Millisecond)
	if e.Cost > 0 {
		l.Cost = json.Number(e.Cost.String())
	}
	for _, s := range []*string{&l.Event, &l.Job, &l.User, &l.Project, &l.Sandbox, &l.Upstream, &l.Model, &l.Method, (*string)(&l.Verdict)} {
		*s = bounded(redact(bounded(*s, maxRaw)), maxShort)
	}
	for _, s := range []*string{&l.Target, &l.Reason} {
		*s = bounded(redact(bounded(*s, maxRaw)), maxLong)
	}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode an audit record: %w", err)
	}
	return statefile.Frame(b), nil
}

// bounded truncates s to limit bytes. It drops half a character at the end.
func bounded(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "�")
}

// Decode decodes a line of the log. It reports false for anything that is not a
// record, such as a torn line.
func Decode(b []byte) (Entry, bool) {
	var l line
	if len(bytes.TrimSpace(b)) == 0 || json.Unmarshal(b, &l) != nil || l.Time.IsZero() || l.Event == "" {
		return Entry{}, false
	}
	e := l.Entry
	e.Tokens = dreamcore.Tokens(l.tokens)
	if l.Cost != "" {
		cost, err := dreamcore.ParseNano(string(l.Cost))
		if err != nil {
			return Entry{}, false
		}
		e.Cost = cost
	}
	return e, true
}
