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

const statusOverloaded = 529 // of the API, not registered

// outcome is what an attempt at one upstream means.
type outcome struct {
	answer *gateway.Answer
	err    error

	moves bool          // the next upstream is asked
	down  bool          // this one is left out for a while
	wait  time.Duration // for how long at least, as it says itself
	alarm bool          // only the operator can end it
	page  bool          // of an alarm: HTML, of something in front of the upstream
	worth int           // which answer stands when all have failed: the lowest
}

// judge sorts an attempt. The lists of statuses are those of doc.go.
func judge(answer *gateway.Answer, err error) *outcome {
	o := &outcome{answer: answer, err: err, moves: true}
	switch {
	case errors.Is(err, gateway.ErrNoCredential):
		o.down, o.alarm, o.worth = true, true, 7
	case errors.Is(err, errSlow):
		o.down, o.worth = true, 4
	case err != nil:
		o.down, o.worth = true, 3
	case answer.Own:
		o.worth = 5
	case (answer.StatusCode == http.StatusBadRequest || answer.StatusCode == http.StatusTooManyRequests) && noCredit(answer):
		o.down, o.alarm, o.worth = true, true, 6
	case answer.StatusCode == http.StatusTooManyRequests:
		o.wait = gateway.RetryAfter(answer.Header, time.Now())
		o.down, o.worth = o.wait > 0, 1
	case answer.StatusCode == statusOverloaded || answer.StatusCode == http.StatusServiceUnavailable:
		o.wait = gateway.RetryAfter(answer.Header, time.Now())
		o.down, o.worth = true, 1
	case answer.StatusCode == http.StatusForbidden:
		o.alarm, o.worth = true, 6 // perhaps of this model only
		o.page = bytes.HasPrefix(bytes.TrimSpace(bodyOf(answer)), []byte("<"))
	case answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusPaymentRequired:
		o.down, o.alarm, o.worth = true, true, 6
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusRequestTimeout || answer.StatusCode < 400 && !answer.Good():
		o.down, o.worth = true, 2
	default:
		o.moves = false
	}
	if o.worth == 1 && o.wait > 0 {
		o.worth = 0
	}
	return o
}

// noCredit tells whether the account has run dry, which the vendor reports as
// a bad request, and others as too many.
func noCredit(answer *gateway.Answer) bool {
	return gateway.NoCredit(answer.StatusCode, bodyOf(answer))
}

// bodyOf returns the body of an error answer, which is in memory (see
// gateway.APIUpstream), and puts it back.
func bodyOf(answer *gateway.Answer) []byte {
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil // the status says enough
	}
	answer.Body = io.NopCloser(bytes.NewReader(text))
	return text
}

// better returns the outcome that stands, and closes the other.
func better(best, o *outcome) *outcome {
	if best == nil || o.worth < best.worth {
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

// Bounds of how long an upstream is left out.
const (
	firstRest = 2 * time.Second
	maxRest   = time.Minute
	// probeRest is how long others wait for the one request that tries.
	probeRest = 30 * time.Second
	// alarmEvery keeps a sandbox that asks on and on from filling the log.
	alarmEvery = time.Minute
)

// rest is the time in which an upstream that failed is left out.
type rest struct {
	mu     sync.Mutex
	until  time.Time // guarded by mu
	fails  int       // guarded by mu: in a row
	spoken time.Time // guarded by mu: of the last alarm
}

// over tells whether the upstream may be asked.
func (r *rest) over(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !now.Before(r.until)
}

// take is over, and after failures it is true for the first one only, until
// that one has told how it went.
func (r *rest) take(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.until) {
		return false
	}
	if r.fails > 0 {
		r.until = now.Add(probeRest)
	}
	return true
}

// untold gives the turn back: the attempt has told nothing.
func (r *rest) untold(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails > 0 {
		r.until = now
	}
}

// failed begins the next, longer rest, and tells whether it is the first.
func (r *rest) failed(wait time.Duration, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	pause := min(firstRest<<min(r.fails, 10), maxRest)
	r.fails++
	r.until = now.Add(max(pause, wait))
	return r.fails == 1
}

// recovered ends the rest, and tells whether there was one.
func (r *rest) recovered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.fails > 0
	r.fails, r.until = 0, time.Time{}
	return was
}

// speak tells whether it is time for another alarm.
func (r *rest) speak(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.spoken.IsZero() && now.Sub(r.spoken) < alarmEvery {
		return false
	}
	r.spoken = now
	return true
}
