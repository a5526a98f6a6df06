package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
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
	ready  []*spare    // the oldest first
	broken []*spare    // to be closed, because they did not work or could not be closed
	making bool        // one is being made
	waiter chan *spare // of who came first and waits for it; gets it, or nil when it failed
	rush   bool        // the last one who came found none
	out    int         // taken, and not closed yet
	taken  time.Time   // the last one
	after  time.Time   // not before then another one
	pause  time.Duration
	closed bool
	left   []error // of those that could not be closed at the end
}

type spare struct {
	sandbox.Sandbox
	made  time.Time
	gone  chan struct{} // closed when it is a spare no more
	why   error         // it is closed
	again time.Time     // not before then another try to close it
	pause time.Duration
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
		if coming != nil {
			waited = true
			sp = s.await(ctx, coming)
		}
		if sp == nil {
			return nil
		}
		if works(ctx, sp) {
			return &loan{Sandbox: sp.Sandbox, spares: s}
		}
		s.putAway(sp)
	}
	return nil
}

// pop takes the oldest spare, or promises the one that is being made to who
// comes first.
func (s *Spares) pop(waited bool) (*spare, chan *spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, nil
	case len(s.ready) > 0:
		sp := s.ready[0]
		s.ready = s.ready[1:]
		s.lend(sp, waited)
		return sp, nil
	}
	s.rush = true
	s.poke()
	if !s.making || s.waiter != nil || waited {
		return nil, nil
	}
	s.waiter = make(chan *spare, 1)
	return nil, s.waiter
}

// lend notes that a spare is somebody's now. The lock is held.
func (s *Spares) lend(sp *spare, rush bool) {
	close(sp.gone)
	s.out++
	s.taken, s.rush = time.Now(), rush
	s.poke()
}

// await waits for the spare that was promised. It is nil when it could not be
// made, or ctx has ended.
func (s *Spares) await(ctx context.Context, coming chan *spare) *spare {
	select {
	case sp := <-coming:
		return sp
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiter == coming {
		s.waiter = nil
		return nil
	}
	return <-coming // it came at the same moment; whose context has ended closes it
}

// putAway leaves a spare that does not work to the keeper.
func (s *Spares) putAway(sp *spare) {
	s.mu.Lock()
	s.out--
	closed := s.closed
	sp.why = errors.New("it does not answer")
	if !closed {
		s.broken = append(s.broken, sp)
		s.poke()
	}
	s.mu.Unlock()
	if closed {
		s.dismiss(sp)
	}
}

// works tells whether programs can be started in a spare. Who gives up meanwhile
// says nothing about it.
func works(ctx context.Context, sp *spare) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeLimit)
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
