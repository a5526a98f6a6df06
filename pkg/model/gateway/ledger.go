package gateway

import (
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ledger keeps the failures and the usage of a grant. Failures are counted by
// kind until a complete answer: the CLI repeats what failed, and a job that
// gets nowhere must end in seconds, not in its full ten retries each time.
type ledger struct {
	limit int // failures of one kind in a row that are worth another try

	mu            sync.Mutex
	failure       dreamcore.FailureCode         // guarded by mu: since the last complete answer
	failures      map[dreamcore.FailureCode]int // guarded by mu: likewise
	interruptions int                           // guarded by mu: likewise, answers cut half-way
	refused       *RefusedRequest               // guarded by mu: likewise
	over          bool                          // guarded by mu: what may be spent is spent
	usage         Usage                         // guarded by mu
}

// fail records a failure and tells whether another try makes sense.
func (l *ledger) fail(code dreamcore.FailureCode) retry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failures == nil {
		l.failures = make(map[dreamcore.FailureCode]int)
	}
	l.failure = code
	l.failures[code]++
	if l.failures[code] > l.limit {
		return retryNo
	}
	return retryByStatus
}

// cut records an answer that ended half-way. Such an answer cannot say whether
// to try again, so blocked says it to the next request.
func (l *ledger) interrupted() {
	l.fail(dreamcore.FailNetwork)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interruptions++
}

// note records a failure of ours, which no number of tries ends.
func (l *ledger) note(code dreamcore.FailureCode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = code
}

// overBudget records that nothing more may be spent. The end of another answer
// does not change that.
func (l *ledger) overBudget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

func (l *ledger) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// succeed records a complete answer.
func (l *ledger) succeed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure, l.interruptions, l.refused = "", 0, nil
	clear(l.failures)
}

// blocked returns the refusal of a request that is not worth sending: after
// stalls each try costs minutes, after cuts the money of a whole answer.
func (l *ledger) blocked() *apiError {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.failures[dreamcore.FailAPITimeout]; n > 0 && n >= l.limit {
		return never(504, "The model API took too long to answer, several times in a row.")
	}
	if l.interruptions > 0 && l.interruptions >= l.limit {
		return never(502, "The connection to the model API was lost, several times in a row.")
	}
	return nil
}

// count adds to the usage.
func (l *ledger) count(add func(*Usage)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add(&l.usage)
}

func (l *ledger) lastFailure() dreamcore.FailureCode {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return dreamcore.FailRateLimit
	}
	return l.failure
}

func (l *ledger) total() Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usage
}

// RefusedRequest is what the model API has against a request itself.
type RefusedRequest struct {
	Status  int
	Kind    string // the API's error type
	Message string // as the API said it, bounded; may quote the request
	TooLong bool   // it is longer than the model takes
}

// refuse records an error that blames the request, until a complete answer.
func (l *ledger) refuse(counts bool, status int, reported upstreamError, tooLong bool) {
	if !counts {
		return
	}
	kind := reported.kind
	if kind == "" {
		kind = kindOf(status)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = &RefusedRequest{Status: status, Kind: kind, Message: reported.message, TooLong: tooLong}
}

// Refused returns the last request that the model API refused for what was in
// it, which no complete answer followed; ok is false where there is none.
// Failure is not set by it. It is final after Revoke.
func (gr *Grant) Refused() (r RefusedRequest, ok bool) {
	l := &gr.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused == nil {
		return r, false
	}
	return *l.refused, true
}
