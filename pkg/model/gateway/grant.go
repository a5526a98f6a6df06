package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// GrantOptions of Socket.Grant.
type GrantOptions struct {
	Job     string    // for the log
	Expires time.Time // after it the token is refused and requests are cut; zero: never
	Models  []string  // the models of this job; empty takes the gateway's Config.Models
	Meter   Meter     // keeps the books of the job; nil: there are none, and no limits
	// Context is the job's. When it ends, the token is refused and requests are
	// cut at once, however long the agent takes to end. Optional.
	Context context.Context
	// For the audit log, beside Job.
	User, Project, Sandbox string
}

// Causes that end a grant's context.
var (
	errRevoked = errors.New("the token was revoked")
	errExpired = errors.New("the token has expired")
)

// Grant is the right of one job to use the model through one socket. Whoever
// asked for it calls Revoke. Its methods may be called at the same time.
type Grant struct {
	socket *Socket
	token  string
	digest [sha256.Size]byte
	models []string
	log    *slog.Logger
	ledger ledger
	meter  Meter

	job, user, project, sandbox string

	warnings, alarms throttle

	ctx    context.Context // the grant's lifetime
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // frees the timer of the expiry and the watch on the job

	mu       sync.Mutex
	inflight int           // guarded by mu
	reserved int64         // guarded by mu: bytes of bodies in memory
	revoked  bool          // guarded by mu
	idle     chan struct{} // closed when revoked and inflight is 0
}

// Grant makes a token that is good on this socket only. On a closed socket
// the grant is born revoked.
func (s *Socket) Grant(opts GrantOptions) *Grant {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails: it would end the program
	gr := &Grant{
		socket: s,
		token:  "sk-dreamcore-" + hex.EncodeToString(secret[:]),
		models: opts.Models,
		log:    s.gw.cfg.Logger.With("job", opts.Job),
		ledger: ledger{limit: s.gw.cfg.RetryLimit},
		meter:  opts.Meter,
		idle:   make(chan struct{}),

		job: opts.Job, user: opts.User, project: opts.Project, sandbox: opts.Sandbox,
	}
	if gr.meter == nil {
		gr.meter = nopMeter{}
	}
	if len(gr.models) == 0 {
		gr.models = s.gw.cfg.Models
	}
	gr.digest = sha256.Sum256([]byte(gr.token))
	parent, cancel := context.WithCancelCause(s.ctx)
	gr.ctx, gr.cancel, gr.stop = parent, cancel, func() {}
	if !opts.Expires.IsZero() {
		gr.ctx, gr.stop = context.WithDeadlineCause(parent, opts.Expires, errExpired)
	}
	if opts.Context != nil {
		release, unwatch := gr.stop, context.AfterFunc(opts.Context, func() { cancel(errRevoked) })
		gr.stop = func() {
			unwatch()
			release()
		}
	}
	if !s.addGrant(gr) {
		gr.Revoke()
	}
	return gr
}

// Token returns what the CLI gets as its API key: "sk-dreamcore-" and 64
// hexadecimal digits.
func (gr *Grant) Token() string { return gr.token }

// Failure returns the kind of the last failure of the model that no complete
// answer followed, or "". It is final after Revoke.
func (gr *Grant) Failure() dreamcore.FailureCode { return gr.ledger.lastFailure() }

// OverBudget tells whether requests were refused because what may be spent is
// spent. It is final after Revoke.
func (gr *Grant) OverBudget() bool { return gr.ledger.isOver() }

// Usage returns what was used so far. It is final after Revoke.
func (gr *Grant) Usage() Usage { return gr.ledger.total() }

// Revoke refuses the token from now on, cuts the requests that run and waits
// for their end. It may be called more than once.
func (gr *Grant) Revoke() {
	gr.mu.Lock()
	if !gr.revoked {
		gr.revoked = true
		if gr.inflight == 0 {
			close(gr.idle)
		}
	}
	gr.mu.Unlock()
	gr.cancel(errRevoked)
	gr.stop()
	gr.socket.removeGrant(gr)
	<-gr.idle
}

// begin counts a request in; the caller calls end for it. It returns the
// refusal instead where the grant has ended or has too many requests.
func (gr *Grant) begin() *apiError {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.revoked || gr.ctx.Err() != nil {
		return never(401, "This token is no longer valid.")
	}
	if gr.inflight >= gr.socket.gw.cfg.MaxConcurrent {
		return &apiError{status: 429, message: "Too many requests of this job at one time.", retry: retryYes, after: "1"}
	}
	gr.inflight++
	return nil
}

func (gr *Grant) end() {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	gr.inflight--
	if gr.revoked && gr.inflight == 0 {
		close(gr.idle)
	}
}

// grantAllowance is how much of the bodies of one grant is no part of what all grants
// share: the requests of an ordinary job fit, whatever the other jobs hold.
const grantAllowance = 4 << 20

// hold reserves n bytes of memory for a body; free gives them back.
func (gr *Grant) reserve(n int64) bool {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.reserved+n > gr.maxReserved() || !gr.socket.gw.bodies.TryAcquire(shared(gr.reserved+n)-shared(gr.reserved)) {
		return false
	}
	gr.reserved += n
	return true
}

// shared is how much of the bytes that a grant holds is of what all share.
func shared(held int64) int64 { return max(0, held-grantAllowance) }

// maxReserved leaves room for one step of each request beside two full bodies.
func (gr *Grant) maxReserved() int64 {
	cfg := gr.socket.gw.cfg
	return 2*cfg.MaxBody + int64(cfg.MaxConcurrent)*bodyStep
}

func (gr *Grant) release(n int64) {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	gr.socket.gw.bodies.Release(shared(gr.reserved) - shared(gr.reserved-n))
	gr.reserved -= n
}

// warn logs what a sandbox can bring about.
func (gr *Grant) warn(message string, attrs ...any) {
	gr.log.Log(gr.ctx, gr.warnings.level(slog.LevelWarn), message, attrs...)
}

// quiet keeps a sandbox from filling the log: what it repeats is told at a
// level that is off by default.
type throttle struct{ n atomic.Int64 }

// maxLoudLines is how many lines of a kind are logged at their own level.
const maxLoudLines = 20

func (q *throttle) level(l slog.Level) slog.Level {
	if q.n.Add(1) > maxLoudLines {
		return slog.LevelDebug
	}
	return l
}
