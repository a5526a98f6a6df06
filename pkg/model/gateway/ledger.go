package gateway

import (
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ledger records the failures and the usage of a grant. Failures are counted by
// kind until the next complete answer: the CLI retries failed requests, and a
// job that makes no progress must end in seconds, not after ten retries of each
// request.
type ledger struct {
	limit int // consecutive failures of one kind after which a retry makes sense

	mu            sync.Mutex
	failure       dreamcore.FailureCode         // guarded by mu: since the last complete answer
	failures      map[dreamcore.FailureCode]int // guarded by mu: since the last complete answer
	interruptions int                           // guarded by mu: interrupted answers since the last complete one
	refused       bool                          // guarded by mu: since the last complete answer
	tooLong       bool                          // guarded by mu: the refused request is longer than the model accepts
	over          *dreamcore.OverBudget         // guarded by mu: the limit that refused a request; a later answer does not reset it
	usage         Usage                         // guarded by mu
}

// locked calls f with mu held and returns its result.
func locked[T any](l *ledger, f func() T) T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f()
}

// update calls f with mu held.
func (l *ledger) update(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// count updates the usage.
func (l *ledger) count(add func(*Usage)) { l.update(func() { add(&l.usage) }) }

// fail records a failure and returns whether the CLI should retry.
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

// interrupted counts an answer that ended half-way. Such an answer cannot tell the
// CLI whether to retry, so blocked refuses the next request if needed.
func (l *ledger) interrupted() { l.update(func() { l.interruptions++ }) }

// note records a failure that is independent of retries.
func (l *ledger) note(code dreamcore.FailureCode) { l.update(func() { l.failure = code }) }

// overLimit records that a limit of the Meter refused a request. A used up budget
// counts more than a rate.
func (l *ledger) overLimit(over *dreamcore.OverBudget) {
	l.update(func() {
		l.failure = dreamcore.FailRateLimit
		if l.over == nil || over.After <= 0 {
			l.over = over
		}
	})
}

// succeed records a complete answer.
func (l *ledger) succeed() {
	l.update(func() {
		l.failure, l.interruptions, l.refused, l.tooLong = "", 0, false, false
		clear(l.failures)
	})
}

// blocked returns a refusal if sending a request makes no sense: after timeouts
// each try costs minutes, after interruptions the price of a whole answer.
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

// Failure returns the code of the last failure of the model since the last
// complete answer, or "". It is final after Revoke.
func (gr *Grant) Failure() dreamcore.FailureCode {
	if gr.OverBudget() {
		return dreamcore.FailRateLimit
	}
	return locked(&gr.ledger, func() dreamcore.FailureCode { return gr.ledger.failure })
}

// OverBudget reports whether requests were refused because the budget is used
// up. It is final after Revoke.
func (gr *Grant) OverBudget() bool {
	over := gr.overLimit()
	return over != nil && over.After <= 0
}

// overLimit returns the limit that refused a request, or nil.
func (gr *Grant) overLimit() *dreamcore.OverBudget {
	return locked(&gr.ledger, func() *dreamcore.OverBudget { return gr.ledger.over })
}

// Usage returns the usage so far. It is final after Revoke.
func (gr *Grant) Usage() Usage { return locked(&gr.ledger, func() Usage { return gr.ledger.usage }) }

// Refused reports whether the model API refused a request because of its content
// since the last complete answer, and whether because it was longer than the model
// accepts. Failure does not report it. It is final after Revoke.
func (gr *Grant) Refused() (refused, tooLong bool) {
	l := &gr.ledger
	l.update(func() { refused, tooLong = l.refused, l.tooLong })
	return refused, tooLong
}
