package upstream

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

const statusOverloaded = 529 // used by the API, not registered

// outcome is the result of an attempt at one upstream.
type outcome struct {
	answer *gateway.Answer
	err    error

	tryNext     bool          // the next upstream is tried
	unavailable bool          // this one is skipped for a while
	wait        time.Duration // requested by the upstream: skip it at least that long
	alarm       bool          // only the operator can fix it
	page        bool          // with an alarm: the body is HTML, from something in front of the upstream
	rank        int           // if all fail, the answer with the lowest rank is returned
}

// judge classifies an attempt. doc.go lists the statuses.
func judge(answer *gateway.Answer, err error) *outcome {
	o := &outcome{answer: answer, err: err, tryNext: true}
	switch {
	case errors.Is(err, gateway.ErrNoCredential):
		o.unavailable, o.alarm, o.rank = true, true, 7
	case errors.Is(err, errSlow):
		o.unavailable, o.rank = true, 4
	case err != nil:
		o.unavailable, o.rank = true, 3
	case answer.Own:
		o.rank = 5
	case (answer.StatusCode == http.StatusBadRequest || answer.StatusCode == http.StatusTooManyRequests) && noCredit(answer):
		o.unavailable, o.alarm, o.rank = true, true, 6
	case answer.StatusCode == http.StatusTooManyRequests:
		o.wait = gateway.RetryAfter(answer.Header, time.Now())
		o.unavailable, o.rank = o.wait > 0, 1
	case answer.StatusCode == statusOverloaded || answer.StatusCode == http.StatusServiceUnavailable:
		o.wait = gateway.RetryAfter(answer.Header, time.Now())
		o.unavailable, o.rank = true, 1
	case answer.StatusCode == http.StatusForbidden:
		o.alarm, o.rank = true, 6 // perhaps for this model only
		o.page = bytes.HasPrefix(bytes.TrimSpace(bodyOf(answer)), []byte("<"))
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusPaymentRequired:
		o.unavailable, o.alarm, o.rank = true, true, 6
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusRequestTimeout || answer.StatusCode < 400 && !answer.Good():
		o.unavailable, o.rank = true, 2
	default:
		o.tryNext = false
	}
	if o.rank == 1 && o.wait > 0 {
		o.rank = 0
	}
	return o
}

// noCredit reports whether the account has no credit left, which the vendor
// reports as a bad request and others as too many requests.
func noCredit(answer *gateway.Answer) bool {
	return gateway.NoCredit(answer.StatusCode, bodyOf(answer))
}

// bodyOf returns the body of an error answer, which is in memory (see
// gateway.APIUpstream), and keeps it readable.
func bodyOf(answer *gateway.Answer) []byte {
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil // the status is enough
	}
	answer.Body = io.NopCloser(bytes.NewReader(text))
	return text
}

// better returns the outcome with the lower rank, and closes the other.
func better(best, o *outcome) *outcome {
	if best == nil || o.rank < best.rank {
		best.close()
		return o
	}
	o.close()
	return best
}

func (o *outcome) close() {
	if o != nil && o.answer != nil {
		o.answer.Body.Close()
	}
}

func (o *outcome) attrs() []any {
	if o.err != nil {
		return []any{"reason", o.err}
	}
	return []any{"status", o.answer.StatusCode}
}

// Bounds of how long a failing upstream is skipped.
const (
	firstBackoff = 2 * time.Second
	maxBackoff   = time.Minute
	// probeTimeout is how long other requests wait for the one that tries again.
	probeTimeout = 30 * time.Second
	// alarmEvery keeps a sandbox with many requests from filling the log.
	alarmEvery = time.Minute
)

// backoff controls how long a failing upstream is skipped.
type backoff struct {
	mu      sync.Mutex
	until   time.Time // guarded by mu
	fails   int       // guarded by mu: consecutive failures
	alarmed time.Time // guarded by mu: time of the last alarm
}

// ready reports whether the upstream may be tried.
func (b *backoff) ready(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !now.Before(b.until)
}

// reserve reports whether the caller may try the upstream. After failures it is
// true for one caller only, until that one has reported its result.
func (b *backoff) reserve(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Before(b.until) {
		return false
	}
	if b.fails > 0 {
		b.until = now.Add(probeTimeout)
	}
	return true
}

// release ends a reservation without a result.
func (b *backoff) release(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fails > 0 {
		b.until = now
	}
}

// failed starts the next, longer pause, and reports whether it is the first.
func (b *backoff) failed(wait time.Duration, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	pause := min(firstBackoff<<min(b.fails, 10), maxBackoff)
	b.fails++
	b.until = now.Add(max(pause, wait))
	return b.fails == 1
}

// recovered ends the pause, and reports whether there was one.
func (b *backoff) recovered() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.fails > 0
	b.fails, b.until = 0, time.Time{}
	return was
}

// mayAlarm reports whether another alarm is due.
func (b *backoff) mayAlarm(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.alarmed.IsZero() && now.Sub(b.alarmed) < alarmEvery {
		return false
	}
	b.alarmed = now
	return true
}
