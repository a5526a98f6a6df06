package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// StateSpare is the state of a sandbox that belongs to nobody yet.
const StateSpare State = "spare"

// SpareName is the name of every spare sandbox in a list.
const SpareName = "spare"

// SpareLimits bounds the sandboxes that are kept ready for anybody.
type SpareLimits struct {
	Count   int           // how many; 0 keeps none
	MaxAge  time.Duration // an older one is replaced
	MinFree int64         // bytes of free memory below which there are none; 0 looks at none
}

// SpareConfig says what spare sandboxes are.
type SpareConfig struct {
	SpareLimits
	// Create starts a sandbox; sandbox.Provider's does.
	Create func(context.Context, sandbox.Spec) (sandbox.Sandbox, error)
	Spec   sandbox.Spec
	Free   func() (int64, error) // as in Config
	Logger *slog.Logger
}

// Pauses of the keeper of spares.
const (
	// courtesy is how long it waits, before it starts the next one, for who has
	// taken one to be done with it: they would take each other's time. When they
	// come faster than sandboxes start, it does not wait.
	courtesy = 2 * time.Second
	unhurt   = time.Hour // nothing changes by itself
)

// Spares keeps sandboxes that are started and that nobody has used, for those
// who need one for a moment. Each is used once. Its methods are safe for
// concurrent use.
type Spares struct {
	cfg    SpareConfig
	ctx    context.Context // ends when Close begins
	cancel context.CancelCauseFunc
	wake   chan struct{}
	wg     sync.WaitGroup // the keeper, and who watches spares for it

	mu     sync.Mutex
	limits SpareLimits
	ready  []*spare      // the oldest first
	broken []*spare      // taken, and found not to work
	making chan struct{} // closed when the one that is being made is ready, or failed; nil: none is
	waits  bool          // somebody waits for it
	rush   bool          // the last one who came found none
	out    int           // taken, and not closed yet
	taken  time.Time     // the last one
	after  time.Time     // not before then another try, because the last one failed
	pause  time.Duration
	closed bool
	left   []error // of those that could not be closed
}

type spare struct {
	sandbox.Sandbox
	made time.Time
	gone chan struct{} // closed when it is a spare no more
}

// NewSpares begins to keep spares, until Close. It fails as New does.
func NewSpares(cfg SpareConfig) (*Spares, error) {
	if cfg.Create == nil {
		return nil, errors.New("spare sandboxes need a way to make them")
	}
	if err := cfg.SpareLimits.validate(); err != nil {
		return nil, err
	}
	if cfg.Free == nil {
		cfg.Free = availableMemory
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Spares{cfg: cfg, limits: cfg.SpareLimits, wake: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.wg.Go(s.keep)
	return s, nil
}

func (l SpareLimits) validate() error {
	if l.Count >= 0 && (l.Count == 0 || l.MaxAge > 0) && l.MinFree >= 0 {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("there cannot be %d spare sandboxes of %v at most, with %d bytes of memory free", l.Count, l.MaxAge, l.MinFree),
		Hint: "correct the settings of spare sandboxes: numbers that are not negative, a time above zero",
	}
}

// Apply changes the limits.
func (s *Spares) Apply(l SpareLimits) error {
	if err := l.validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
	s.poke()
	return nil
}

// Create returns a sandbox of spec, as sandbox.Provider does: a spare one, when
// it is what spares are and one is there or on its way, else a new one.
func (s *Spares) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if reflect.DeepEqual(spec, s.cfg.Spec) {
		if sb := s.take(ctx); sb != nil {
			return sb, nil
		}
	}
	return s.cfg.Create(ctx, spec)
}

// take returns a spare that works, or nil.
func (s *Spares) take(ctx context.Context) sandbox.Sandbox {
	for waited := false; ctx.Err() == nil; {
		sp, coming := s.pop(waited)
		switch {
		case sp != nil && s.works(ctx, sp):
			return &loan{Sandbox: sp.Sandbox, spares: s}
		case sp != nil:
			s.putAway(sp)
		case coming == nil:
			return nil
		default:
			waited = true
			select {
			case <-coming:
			case <-ctx.Done():
			}
			s.mu.Lock()
			s.waits = false
			s.mu.Unlock()
		}
	}
	return nil
}

// pop takes the oldest spare, or tells when the one that is being made is
// there. One at a time waits for it, once: it came first.
func (s *Spares) pop(waited bool) (*spare, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) > 0 && !s.closed {
		sp := s.ready[0]
		s.ready = s.ready[1:]
		close(sp.gone)
		s.out++
		s.taken, s.rush = time.Now(), waited
		s.poke()
		return sp, nil
	}
	s.rush = true
	if s.making == nil || s.waits || waited || s.closed {
		return nil, nil
	}
	s.waits = true
	return nil, s.making
}

// putAway leaves a spare that does not work to the keeper.
func (s *Spares) putAway(sp *spare) {
	s.mu.Lock()
	s.out--
	closed := s.closed
	if !closed {
		s.broken = append(s.broken, sp)
		s.poke()
	}
	s.mu.Unlock()
	if closed {
		s.dismiss(sp, ErrClosed)
	}
}

func (s *Spares) works(ctx context.Context, sp *spare) bool {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	return !isClosed(sp.Lost()) && sp.EndAll(ctx) == nil
}

// loan is a spare in somebody's hands.
type loan struct {
	sandbox.Sandbox
	spares *Spares
	once   sync.Once
}

// Close implements sandbox.Sandbox.
func (l *loan) Close(ctx context.Context) error {
	defer l.once.Do(l.spares.done)
	return l.Sandbox.Close(ctx)
}

// done notes that one that was taken is in the way no more.
func (s *Spares) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out--
	s.poke()
}

// poke makes the keeper look.
func (s *Spares) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// List tells about every spare.
func (s *Spares) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Info, 0, len(s.ready))
	for _, sp := range s.ready {
		list = append(list, Info{Name: SpareName, Sandbox: sp.ID(), State: StateSpare, Created: sp.made, LastUsed: sp.made})
	}
	return list
}

// keep makes what is missing and closes what is not to be kept.
func (s *Spares) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.ctx.Done():
			s.discard()
			return
		}
		s.discard()
		missing, next := s.missing()
		if missing {
			s.make()
			next = 0
		}
		timer.Reset(next)
	}
}

// discard closes what is not to be kept: once Close has begun, all.
func (s *Spares) discard() {
	short := s.short()
	ends := map[*spare]error{}
	s.mu.Lock()
	for _, sp := range s.broken {
		ends[sp] = errors.New("it does not answer")
	}
	s.broken = nil
	kept := len(s.ready)
	s.ready = slices.DeleteFunc(s.ready, func(sp *spare) bool {
		why := s.unfit(sp)
		if why == nil && kept > s.limits.Count {
			why = errCrowded
		}
		if why == nil && short {
			why = errMemory
		}
		if why != nil {
			kept--
			close(sp.gone)
			ends[sp] = why
		}
		return why != nil
	})
	s.mu.Unlock()
	for sp, why := range ends {
		s.dismiss(sp, why)
	}
}

// unfit tells why a spare must not be given to anybody, or nil.
func (s *Spares) unfit(sp *spare) error {
	switch {
	case s.closed:
		return ErrClosed
	case isClosed(sp.Lost()):
		return fmt.Errorf("sandbox %s: %w", sp.ID(), sandbox.ErrLost)
	case time.Since(sp.made) >= s.limits.MaxAge:
		return errOld
	}
	return nil
}

// short tells whether memory is. What cannot be told is not, as for users'
// sandboxes.
func (s *Spares) short() bool {
	s.mu.Lock()
	limit := s.limits.MinFree
	s.mu.Unlock()
	if limit == 0 {
		return false
	}
	free, err := s.cfg.Free()
	return err == nil && free < limit
}

// missing tells whether one is to be made now, else when to look again.
func (s *Spares) missing() (missing bool, next time.Duration) {
	short := s.short()
	s.mu.Lock()
	defer s.mu.Unlock()
	next = unhurt
	if s.limits.MinFree > 0 && s.limits.Count > 0 {
		next = pressureEvery
	}
	if len(s.ready) > 0 {
		next = min(next, time.Until(s.ready[0].made.Add(s.limits.MaxAge)))
	}
	if len(s.ready) >= s.limits.Count || short {
		return false, max(next, 0)
	}
	from := s.after
	if again := s.taken.Add(courtesy); s.out > 0 && !s.rush && again.After(from) {
		from = again
	}
	wait := time.Until(from)
	return wait <= 0, max(min(next, wait), 0)
}

// make starts a spare.
func (s *Spares) make() {
	s.mu.Lock()
	made := make(chan struct{})
	s.making = made
	s.mu.Unlock()
	sb, err := s.cfg.Create(s.ctx, s.cfg.Spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(made)
	s.making = nil
	if err != nil {
		if s.ctx.Err() == nil {
			s.pause = min(max(2*s.pause, firstPause), longestPause)
			s.after = time.Now().Add(s.pause)
			s.cfg.Logger.Error("start a spare sandbox; it is tried again", "error", err, "after", s.pause)
		}
		return
	}
	s.pause = 0
	sp := &spare{Sandbox: sb, made: time.Now(), gone: make(chan struct{})}
	s.ready = append(s.ready, sp)
	s.wg.Go(func() {
		select {
		case <-sp.Lost():
			s.poke()
		case <-sp.gone:
		}
	})
}

// dismiss closes one that is a spare no more. The lock is not held.
func (s *Spares) dismiss(sp *spare, why error) {
	level := slog.LevelWarn
	if _, ok := errors.AsType[reason](why); ok {
		level = slog.LevelInfo
	}
	s.cfg.Logger.Log(context.Background(), level, "closing a spare sandbox", "sandbox", sp.ID(), "why", why)
	var err error
	for try := range lastTries {
		if try > 0 {
			time.Sleep(firstPause)
		}
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		err = sp.Close(ctx)
		cancel()
		if err == nil {
			return
		}
		s.cfg.Logger.Error("close a spare sandbox", "sandbox", sp.ID(), "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = append(s.left, fmt.Errorf("close spare sandbox %s: %w", sp.ID(), err))
}

// Close ends every spare. Those that were taken are their takers' to close. It
// may be called more than once.
func (s *Spares) Close() error {
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
			Code: dreamcore.CodeInternal, Message: "spare sandboxes could not be closed", Err: err,
			Hint: "the next start of dreamcore removes what is left of them",
		}
	}
	return nil
}
