package egress

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Verdict is how an attempt ended.
type Verdict string

// Verdicts.
const (
	Allowed Verdict = "allowed" // the host was reached
	Refused Verdict = "refused" // a rule or a bound was against it
	Failed  Verdict = "failed"  // the host was not reached, or the connection did not end as it should
)

// Attempt is one try of a sandbox to reach something.
type Attempt struct {
	Time     time.Time
	Duration time.Duration
	Job      string // "" when none ran
	User     string
	Sandbox  string
	Method   string         // "CONNECT" for a tunnel, else of the request
	Host     string         // as it was asked for, cut and made printable
	Port     uint16         // 0 where none could be read
	Address  netip.AddrPort // that was dialled; zero when none was
	Up, Down int64          // bytes of the tunnel, or of the bodies
	Status   int            // of the host's answer to a request, or of our refusal
	Injected bool           // a secret was added
	Verdict  Verdict
	Reason   string // for other verdicts than Allowed
}

// attempt is one that is under way.
type attempt struct {
	Attempt
	session  *Session // nil when there is none
	observe  func(Attempt)
	up, down atomic.Int64
	done     bool
	quiet    bool // nobody is told
}

// maxText bounds what of a hostile text goes into an Attempt.
const maxText = 256

// printable keeps to what a log and a terminal can show.
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

// refusal is why an attempt was not carried out or failed.
type refusal struct {
	status  int // for the sandbox
	verdict Verdict
	reason  string // for the log, and for the sandbox
	err     error  // for the log
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

// asked notes whom the attempt is for.
func (a *attempt) asked(t Target) { a.Host, a.Port = t.Host, t.Port }
