package workspace

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// A standby sandbox is listed with this state and name; both are part of the
// API.
const (
	StateStandby State  = "spare"
	StandbyName  string = "spare"
)

// StandbyLimits bounds the sandboxes that are kept started.
type StandbyLimits struct {
	Count   int           // how many; may be 0
	MaxAge  time.Duration // an older one is replaced
	MinFree int64         // bytes of free memory below which they are closed; 0 disables the check
}

// StandbyConfig configures a Standby.
type StandbyConfig struct {
	StandbyLimits
	// Create starts a sandbox, as sandbox.Provider does.
	Create func(context.Context, sandbox.Spec) (sandbox.Sandbox, error)
	Spec   sandbox.Spec
	// Delay is how long the next one waits, after one was handed out, while that is in
	// use: its start would slow that one down. So does the next one after one whose agent
	// no job would take. 0 means startDelay.
	Delay time.Duration
	// Busy reports whether the processors have more important work than the start of
	// one for which no caller waits; it may be nil.
	Busy func() bool
	// Fit returns why one must not be handed out any more, or nil; it may be nil.
	Fit func(sandbox.Sandbox) error
	// Probe returns an error if programs cannot be started in one. nil means EndAll.
	Probe func(context.Context, sandbox.Sandbox) error
	// Reserve is the memory in bytes that must be free beyond MinFree before one is
	// started. 0 means standbyReserve.
	Reserve int64
	Free    func() (int64, error) // bytes of free memory; nil reads /proc/meminfo
	Logger  *slog.Logger          // may be nil
}

// Standby keeps a few sandboxes started that have no user, for checks that need
// one for a moment. Each is used once. They are not in the Pool: they have no
// user and no mounts, are never leased again, and must not take a slot from a
// user. Its methods are safe for concurrent use.
type Standby struct {
	cfg    StandbyConfig
	ctx    context.Context // ends when Close begins
	cancel context.CancelCauseFunc
	wakeup chan struct{}
	wg     sync.WaitGroup // the keeper, and the goroutines that watch and close sandboxes

	mu       sync.Mutex // guards the fields below
	limits   StandbyLimits
	ready    []*standby // the oldest first
	starting bool       // one is being started
	// waiter gets the sandbox that is being started, or nil if the start fails.
	// It belongs to the first caller that found no sandbox; it may be nil.
	waiter    chan *standby
	exhausted bool          // the last caller found none
	inUse     int           // handed out and not closed yet
	closing   int           // not ready any more, during the first attempt to close them
	lastTaken time.Time     // when the last one was handed out
	notBefore time.Time     // earliest start of the next one
	pause     time.Duration // after the last failed start
	closed    bool
	disabled  bool    // no more are kept
	left      []error // of those that could not be closed at the end
}

// standby is one sandbox of a Standby.
type standby struct {
	sandbox.Sandbox
	created time.Time
	removed chan struct{} // closed when it is not in ready any more
}

// NewStandby starts to keep sandboxes, until Close.
func NewStandby(cfg StandbyConfig) *Standby {
	if cfg.Free == nil {
		cfg.Free = availableMemory
	}
	if cfg.Delay == 0 {
		cfg.Delay = startDelay
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = standbyReserve
	}
	if cfg.Probe == nil {
		cfg.Probe = func(ctx context.Context, sb sandbox.Sandbox) error { return sb.EndAll(ctx) }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Standby{cfg: cfg, limits: cfg.StandbyLimits, wakeup: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.wg.Go(s.keep)
	return s
}

// Apply changes the limits.
func (s *Standby) Apply(l StandbyLimits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
	s.wake()
}

// Disable ends every ready sandbox, and no more are started.
func (s *Standby) Disable() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disabled = true
	s.wake()
}

// shed gives the memory of the ready sandboxes back, as soon as the keeper looks, and
// reports whether there are any.
func (s *Standby) shed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		return false
	}
	s.wake()
	return true
}

// Create returns a sandbox of spec, as sandbox.Provider does. If spec is that of
// the standby sandboxes and one is ready or being started, it returns that one,
// else a new one.
func (s *Standby) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if reflect.DeepEqual(spec, s.cfg.Spec) {
		if sb := s.take(ctx); sb != nil {
			return sb, nil
		}
	}
	return s.cfg.Create(ctx, spec)
}

// take returns a standby sandbox that works, or nil.
func (s *Standby) take(ctx context.Context) sandbox.Sandbox {
	for waited := false; ctx.Err() == nil; {
		sb, starting := s.pop(waited)
		if starting != nil {
			waited = true
			sb = s.await(ctx, starting)
		}
		if sb == nil {
			return nil
		}
		if s.works(ctx, sb) {
			return &handedOut{Sandbox: sb.Sandbox, standby: s}
		}
		s.giveUp(sb)
	}
	return nil
}

// takeReady returns a standby sandbox that works, or nil if none is ready. The caller
// must call released once when it has closed the sandbox.
func (s *Standby) takeReady(ctx context.Context) (sb sandbox.Sandbox, released func()) {
	for ctx.Err() == nil {
		sb := s.popReady()
		if sb == nil {
			return nil, nil
		}
		if s.works(ctx, sb) {
			return sb.Sandbox, sync.OnceFunc(s.release)
		}
		s.giveUp(sb)
	}
	return nil, nil
}

func (s *Standby) popReady() *standby {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.disabled || len(s.ready) == 0 {
		return nil
	}
	sb := s.ready[0]
	s.ready = s.ready[1:]
	s.handOut(sb, false)
	return sb
}

// pop removes the oldest ready sandbox. If no sandbox is ready, the first caller
// gets a channel for the one that is being started.
func (s *Standby) pop(waited bool) (*standby, chan *standby) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, nil
	case len(s.ready) > 0:
		sb := s.ready[0]
		s.ready = s.ready[1:]
		s.handOut(sb, waited)
		return sb, nil
	}
	s.exhausted = true
	s.wake()
	if !s.starting || s.waiter != nil || waited {
		return nil, nil
	}
	s.waiter = make(chan *standby, 1)
	return nil, s.waiter
}

// handOut records that a sandbox belongs to a caller from now on. It must be
// called with mu held.
func (s *Standby) handOut(sb *standby, exhausted bool) {
	close(sb.removed)
	s.inUse++
	s.lastTaken, s.exhausted = time.Now(), exhausted
	s.wake()
}

// await waits for the sandbox that is being started for the caller. It returns
// nil if the start fails or ctx ends.
func (s *Standby) await(ctx context.Context, starting chan *standby) *standby {
	select {
	case sb := <-starting:
		return sb
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiter == starting {
		s.waiter = nil
		return nil
	}
	return <-starting // it came at the same moment; the caller closes it
}

// giveUp closes a sandbox that does not work.
func (s *Standby) giveUp(sb *standby) {
	why := errors.New("it does not answer")
	s.mu.Lock()
	s.inUse--
	s.closing++
	closed := s.closed
	if !closed { // afterwards, Close may not wait any more
		s.wg.Go(func() { s.dismiss(sb, why) })
	}
	s.mu.Unlock()
	if closed {
		s.dismiss(sb, why)
	}
}

// works reports whether programs can be started in a standby sandbox. The end of
// ctx does not affect the answer.
func (s *Standby) works(ctx context.Context, sb *standby) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeLimit)
	defer cancel()
	return !isClosed(sb.Lost()) && s.cfg.Probe(ctx, sb.Sandbox) == nil
}

// handedOut is a sandbox in the hands of a caller.
type handedOut struct {
	sandbox.Sandbox
	standby *Standby
	once    sync.Once
}

// Close implements sandbox.Sandbox.
func (h *handedOut) Close(ctx context.Context) error {
	defer h.once.Do(h.standby.release)
	return h.Sandbox.Close(ctx)
}

// release records that a caller is done with a sandbox.
func (s *Standby) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse--
	s.wake()
}

// wake makes the keeper look. It may be called with mu held.
func (s *Standby) wake() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// List describes every standby sandbox.
func (s *Standby) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Info, 0, len(s.ready))
	for _, sb := range s.ready {
		i := Info{Name: StandbyName, Sandbox: sb.ID(), State: StateStandby, Created: sb.created, LastUsed: sb.created}
		if w, ok := sb.Sandbox.(*Workspace); ok {
			i.AgentWarm = w.waiting() != nil
		}
		list = append(list, i)
	}
	return list
}

// Close ends every standby sandbox. Those that were handed out are the callers'
// to close. It may be called more than once.
func (s *Standby) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel(ErrClosed)
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.left...); err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeInternal, Message: "standby sandboxes could not be closed", Err: err,
			Hint: "the next start of dreamcore removes the residue",
		}
	}
	return nil
}
