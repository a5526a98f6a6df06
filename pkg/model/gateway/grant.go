package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// GrantOptions are the options of Socket.Grant.
type GrantOptions struct {
	Job     string    // for the log
	Token   string    // of NewToken; "" creates one
	Expires time.Time // when the token becomes invalid and requests are cancelled; zero if never
	Meter   Meter     // the job's ledger; if nil, there are no limits
	// Context is the job's, optional. When it ends, the token becomes invalid
	// and requests are cancelled immediately, however long the agent takes to
	// exit.
	Context context.Context
	// For the audit log, in addition to Job.
	User, Project, Sandbox string
}

// Causes of the end of a grant's context.
var (
	errRevoked = errors.New("the token was revoked")
	errExpired = errors.New("the token has expired")
)

// Grant is the right of one job to use the model through one socket. The caller
// that created it must call Revoke. It is safe for concurrent use.
type Grant struct {
	socket *Socket
	token  string
	digest [sha256.Size]byte
	log    *slog.Logger
	ledger ledger
	opts   GrantOptions

	rehearses atomic.Bool // the agent was awaited, and has not asked the model anything

	warnings, alarms throttle

	ctx    context.Context // the grant's lifetime
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // releases the expiry timer and the watch on the job's context

	mu       sync.Mutex
	inflight int           // guarded by mu
	reserved int64         // guarded by mu: bytes of bodies in memory
	revoked  bool          // guarded by mu
	idle     chan struct{} // closed when revoked and inflight is 0
}

// NewToken returns a token that is refused until a grant makes it valid, except for what
// Socket.Await allows: for an agent that is started before its job. It is "sk-dreamcore-" and 64 hexadecimal digits.
func NewToken() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails: it would end the program
	return "sk-dreamcore-" + hex.EncodeToString(secret[:])
}

// Grant makes a token valid, on this socket only. On a closed socket the grant is
// revoked from the start.
func (s *Socket) Grant(opts GrantOptions) *Grant {
	gr := &Grant{
		socket: s,
		token:  cmp.Or(opts.Token, NewToken()),
		log:    s.gw.cfg.Logger.With("job", opts.Job),
		ledger: ledger{limit: s.gw.cfg.RetryLimit},
		opts:   opts,
		idle:   make(chan struct{}),
	}
	if opts.Meter == nil {
		gr.opts.Meter = nopMeter{}
	}
	gr.digest = sha256.Sum256([]byte(gr.token))
	gr.rehearses.Store(s.awaits(gr.digest))
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
	s.awaited.Store(nil) // after that: requests look for a grant first
	return gr
}

// Token returns the API key for the CLI.
func (gr *Grant) Token() string { return gr.token }

// Revoke invalidates the token, cancels the running requests and waits for
// their end. It may be called more than once.
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

// begin registers a request, for which the caller must call end. It returns a
// refusal instead if the grant has ended or has too many requests.
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

// grantAllowance is the number of body bytes of one grant that do not count
// against Config.MaxBodies: the requests of an ordinary job fit, independent of
// the other jobs.
const grantAllowance = 4 << 20

// reserve reserves n bytes of memory for a body; release returns them.
func (gr *Grant) reserve(n int64) bool {
	gr.mu.Lock()
	defer gr.mu.Unlock()
	if gr.reserved+n > gr.maxReserved() || !gr.socket.gw.bodies.TryAcquire(shared(gr.reserved+n)-shared(gr.reserved)) {
		return false
	}
	gr.reserved += n
	return true
}

// shared returns how many of a grant's reserved bytes count against
// Config.MaxBodies.
func shared(reserved int64) int64 { return max(0, reserved-grantAllowance) }

// maxReserved allows two full bodies and one step of each request.
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

// warn logs an event that a sandbox can cause at will.
func (gr *Grant) warn(message string, attrs ...any) {
	gr.log.Log(gr.ctx, gr.warnings.level(slog.LevelWarn), message, attrs...)
}

// throttle keeps a sandbox from filling the log: after maxLoudLines messages the
// level is one that is off by default.
type throttle struct{ n atomic.Int64 }

// maxLoudLines is how many messages of a kind are logged at their own level.
const maxLoudLines = 20

func (q *throttle) level(l slog.Level) slog.Level {
	if q.n.Add(1) > maxLoudLines {
		return slog.LevelDebug
	}
	return l
}
