package egress

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Verdict is the outcome of an attempt.
type Verdict string

// Verdicts.
const (
	Allowed Verdict = "allowed" // the host was reached
	Refused Verdict = "refused" // a rule or a limit forbade it
	Failed  Verdict = "failed"  // the host was not reached, or the connection ended abnormally
)

// Attempt is one attempt of a sandbox to reach a host.
type Attempt struct {
	Time     time.Time
	Duration time.Duration
	Job      string // "" if none was running
	User     string
	Sandbox  string
	Method   string         // method of the request; "CONNECT" for a tunnel
	Host     string         // as requested, truncated and made printable
	Port     uint16         // 0 if unknown
	Address  netip.AddrPort // dialled address; zero if none
	Up, Down int64          // bytes through the tunnel, or of the bodies
	Status   int            // status of the host's response, or of the refusal
	Injected bool           // a secret was added
	Verdict  Verdict
	Reason   string // set unless Verdict is Allowed
}

// attempt is a running attempt.
type attempt struct {
	Attempt
	session  *Session // nil without one
	observe  func(Attempt)
	up, down atomic.Int64
	done     bool
	quiet    bool // not observed
}

// maxText bounds how much hostile text goes into an Attempt, in bytes.
const maxText = 256

// printable replaces characters that must not reach a log or a terminal.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// refusal is the reason why an attempt was refused or failed.
type refusal struct {
	status  int // HTTP status for the sandbox
	verdict Verdict
	reason  string // for the log and the sandbox
	err     error  // for the log only
}

func (r *refusal) Error() string {
	if r.err != nil {
		return r.reason + ": " + r.err.Error()
	}
	return r.reason
}

func (r *refusal) Unwrap() error { return r.err }

func refuse(status int, reason string) *refusal {
	return &refusal{status: status, verdict: Refused, reason: reason}
}

func fail(reason string, err error) *refusal {
	return &refusal{status: 502, verdict: Failed, reason: reason, err: err}
}

// asked records the target of the attempt.
func (a *attempt) asked(t Target) { a.Host, a.Port = t.Host, t.Port }
