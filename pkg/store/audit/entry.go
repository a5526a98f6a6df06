// Package audit keeps the log of who did what: requests for the model and for
// the network, refusals, sandboxes, commands of operators. It is JSON lines in
// a directory, audit.ndjson and older files beside it, to which every process
// of the state directory appends.
//
//	log, err := audit.Open(dir, audit.Options{Redact: redactor.Redact})
//	log.Record(audit.Entry{Event: audit.EventModel, User: user, Verdict: audit.Allowed})
//	err = log.Close()
//
// A record is one write to a file that is opened for appending, which Linux
// does in one piece, and begins with a newline, which ends the torn line of a
// process that died: so nobody waits for a lock. It survives the end of its
// process at once and a power cut within a second; a refusal is on the disk
// before Record returns.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Events.
const (
	EventModel        = "model"         // a request for the model
	EventEgress       = "egress"        // a sandbox tried to reach a host
	EventToken        = "token"         // a sandbox used a wrong token
	EventSandboxStart = "sandbox_start" // a sandbox was made
	EventSandboxStop  = "sandbox_stop"  // a sandbox was ended
	EventJob          = "job"           // a job was refused before it began
	EventOperator     = "operator"      // a command of an operator
	EventAuth         = "auth"          // a wrong secret at the HTTP API
	EventSecret       = "secret"        // a secret was replaced
	EventLost         = "lost"          // records could not be written
)

// Verdict is what became of it.
type Verdict string

// Verdicts.
const (
	Allowed Verdict = "allowed"
	Refused Verdict = "refused"
	Failed  Verdict = "failed" // it was allowed and did not succeed
)

// Entry is one record. Text may come from anywhere: it is bounded, and secrets
// are taken out. BytesOut left for the upstream, BytesIn came from it.
type Entry struct {
	Time     time.Time // zero: now
	Event    string
	Job      string
	User     string
	Project  string
	Sandbox  string
	Upstream string
	Model    string
	Method   string
	Target   string // path, address, or what a command was about
	Status   int    // of HTTP
	BytesIn  int64
	BytesOut int64
	Tokens   dreamcore.Tokens
	Cost     dreamcore.Nano
	Verdict  Verdict
	Reason   string

	// Suppressed counts refusals of the same kind and sandbox before this one
	// that came too fast to be written down.
	Suppressed int64
}

// line is an Entry as it is written.
type line struct {
	Time         time.Time   `json:"time"`
	Event        string      `json:"event"`
	Verdict      Verdict     `json:"verdict,omitempty"`
	Job          string      `json:"job,omitempty"`
	User         string      `json:"user,omitempty"`
	Project      string      `json:"project,omitempty"`
	Sandbox      string      `json:"sandbox,omitempty"`
	Upstream     string      `json:"upstream,omitempty"`
	Model        string      `json:"model,omitempty"`
	Method       string      `json:"method,omitempty"`
	Target       string      `json:"target,omitempty"`
	Status       int         `json:"status,omitempty"`
	BytesIn      int64       `json:"bytes_in,omitempty"`
	BytesOut     int64       `json:"bytes_out,omitempty"`
	Input        int64       `json:"input_tokens,omitempty"`
	Output       int64       `json:"output_tokens,omitempty"`
	CacheWrite   int64       `json:"cache_write_tokens,omitempty"`
	CacheWrite1h int64       `json:"cache_write_1h_tokens,omitempty"`
	CacheRead    int64       `json:"cache_read_tokens,omitempty"`
	Cost         json.Number `json:"cost_usd,omitempty"`
	Reason       string      `json:"reason,omitempty"`
	Suppressed   int64       `json:"suppressed,omitempty"`
}

// Bounds of text in a record.
const (
	maxShort = 256
	maxLong  = 1024
	maxRaw   = 16 << 10 // before secrets are taken out: far more than is kept, so that a cut splits none that is
	maxLine  = 32 << 10 // longer than the longest record with every byte escaped
)

// encode is the entry as it is appended.
func (e Entry) encode(redact func(string) string) ([]byte, error) {
	t := e.Tokens
	l := line{
		Time: e.Time.UTC().Truncate(time.Millisecond), Event: e.Event, Verdict: e.Verdict, Job: e.Job, User: e.User, Project: e.Project,
		Sandbox: e.Sandbox, Upstream: e.Upstream, Model: e.Model, Method: e.Method, Target: e.Target, Status: e.Status,
		BytesIn: e.BytesIn, BytesOut: e.BytesOut, Input: t.Input, Output: t.Output, CacheWrite: t.CacheWrite,
		CacheWrite1h: t.CacheWrite1h, CacheRead: t.CacheRead, Reason: e.Reason, Suppressed: e.Suppressed,
	}
	if e.Cost > 0 {
		l.Cost = json.Number(e.Cost.String())
	}
	for _, s := range []*string{&l.Event, &l.Job, &l.User, &l.Project, &l.Sandbox, &l.Upstream, &l.Model, &l.Method} {
		*s = bounded(redact(bounded(*s, maxRaw)), maxShort)
	}
	for _, s := range []*string{&l.Target, &l.Reason} {
		*s = bounded(redact(bounded(*s, maxRaw)), maxLong)
	}
	l.Verdict = Verdict(bounded(redact(bounded(string(l.Verdict), maxRaw)), maxShort))
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode an audit record: %w", err)
	}
	return slices.Concat([]byte("\n"), b, []byte("\n")), nil
}

// bounded cuts s. Half a character at the cut goes too.
func bounded(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "�")
}

// Decode reads a line of the log. What is no record, such as what a process
// that died has left half of, is told by false.
func Decode(b []byte) (Entry, bool) {
	var l line
	if len(bytes.TrimSpace(b)) == 0 || json.Unmarshal(b, &l) != nil || l.Time.IsZero() || l.Event == "" {
		return Entry{}, false
	}
	e := Entry{
		Time: l.Time, Event: l.Event, Verdict: l.Verdict, Job: l.Job, User: l.User, Project: l.Project, Sandbox: l.Sandbox,
		Upstream: l.Upstream, Model: l.Model, Method: l.Method, Target: l.Target, Status: l.Status, BytesIn: l.BytesIn,
		BytesOut: l.BytesOut, Reason: l.Reason, Suppressed: l.Suppressed,
		Tokens: dreamcore.Tokens{Input: l.Input, Output: l.Output, CacheWrite: l.CacheWrite, CacheWrite1h: l.CacheWrite1h, CacheRead: l.CacheRead},
	}
	if l.Cost != "" {
		cost, err := dreamcore.ParseNano(string(l.Cost))
		if err != nil {
			return Entry{}, false
		}
		e.Cost = cost
	}
	return e, true
}
