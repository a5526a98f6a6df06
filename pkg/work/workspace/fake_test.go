package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func user(n int) dreamcore.UserID {
	return dreamcore.UserID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
}

// machine creates boxes, and records violations of the rules of a pool.
type machine struct {
	mu       sync.Mutex
	max      int // allowed boxes at once
	boxes    []*box
	existing map[dreamcore.UserID]int // boxes that exist or are being created
	most     int                      // maximum of these at once
	creating int
	faults   []string

	free  int64 // bytes of memory
	blind error // if set, the memory cannot be read

	// The duration and errors of the steps. They are called without mu.
	creatingStep, closingStep, cleaningStep, probingStep step
}

// box is a fake sandbox that records its calls.
type box struct {
	sandbox.Sandbox // nil: the pool calls no method but those below
	machine         *machine
	id              string
	user            dreamcore.UserID
	lost            chan struct{}
	agents          []*fakeAgent             // that were started in it; guarded by machine.mu
	template        atomic.Pointer[Template] // of workspaces created now

	// Guarded by machine.mu.
	ended  bool
	dirty  bool // a job ran in it
	held   bool
	starts int
	cleans int
	probes int
	tries  int // calls of Close
	closed int // successful calls of Close
}

func newMachine(max int) *machine {
	return &machine{max: max, existing: map[dreamcore.UserID]int{}, free: 1 << 40}
}

func (m *machine) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

// open is the pool's way to create a workspace: a box in place of the sandbox,
// and nothing bound to it.
func (m *machine) open(ctx context.Context, u dreamcore.UserID) (*Workspace, error) {
	b, err := m.make(ctx, u)
	if err != nil {
		return nil, err
	}
	return &Workspace{Sandbox: b, parts: &Parts{}, owner: u, current: &b.template}, nil
}

// boxOf returns the box of a lease's workspace.
func boxOf(l *Lease) *box { return l.Workspace().Sandbox.(*box) }

// newTestPool creates a pool whose workspaces and memory are those of m.
func newTestPool(m *machine, l Limits, log *slog.Logger) (*Pool, error) {
	p := &Pool{open: m.open, free: m.memory, log: log}
	return p, p.start(l)
}

func (m *machine) make(ctx context.Context, u dreamcore.UserID) (*box, error) {
	m.mu.Lock()
	b := &box{machine: m, id: fmt.Sprintf("box-%d", len(m.boxes)), user: u, lost: make(chan struct{})}
	b.template.Store(&Template{})
	m.existing[u]++
	m.creating++
	if m.existing[u] > 1 {
		m.fault("%d boxes of %s at once", m.existing[u], u)
	}
	n := 0
	for _, of := range m.existing {
		n += of
	}
	m.most = max(m.most, n)
	if m.max > 0 && n > m.max {
		m.fault("%d boxes at once, %d are the limit", n, m.max)
	}
	m.mu.Unlock()
	err := m.creatingStep.run(ctx, b)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.creating--
	if err != nil {
		m.existing[u]--
		return nil, err
	}
	m.boxes = append(m.boxes, b)
	return b, nil
}

// step is the behaviour of a method of a box. A test may change it at any time.
type step struct {
	f atomic.Pointer[func(context.Context, *box) error]
}

func (s *step) set(f func(context.Context, *box) error) { s.f.Store(&f) }

func (s *step) run(ctx context.Context, b *box) error {
	if f := s.f.Load(); f != nil && *f != nil {
		return (*f)(ctx, b)
	}
	return ctx.Err()
}

func (m *machine) memory() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.free, m.blind
}

func (m *machine) setFree(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = n
}

// end checks that every box was closed exactly once.
func (m *machine) end(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.boxes {
		if b.closed != 1 {
			t.Errorf("%s of %s was closed %d times", b.id, b.user, b.closed)
		}
	}
	if m.creating != 0 {
		t.Errorf("%d boxes are being created", m.creating)
	}
	for _, f := range m.faults {
		t.Error(f)
	}
}

func (b *box) ID() string            { return b.id }
func (b *box) Lost() <-chan struct{} { return b.lost }

// EndAll is the probe of a workspace.
func (b *box) EndAll(ctx context.Context) error {
	b.machine.mu.Lock()
	b.probes++
	b.endAgents()
	b.machine.mu.Unlock()
	return b.machine.probingStep.run(ctx, b)
}

// Start starts nothing, but notes it.
func (b *box) Start(context.Context, sandbox.Command) (sandbox.Process, error) {
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	b.starts++
	return exited{}, nil
}

// exited is a program that has ended.
type exited struct{ sandbox.Process }

func (exited) Wait() (sandbox.Exit, error) { return sandbox.Exit{}, nil }

func (b *box) Clean(ctx context.Context, _ sandbox.Residue) error {
	if err := b.machine.cleaningStep.run(ctx, b); err != nil {
		return err
	}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	b.endAgents()
	b.cleans++
	b.dirty = false
	return nil
}

func (b *box) Close(ctx context.Context) error {
	b.machine.mu.Lock()
	b.tries++
	if b.closed > 0 {
		b.machine.fault("%s is closed again", b.id)
	}
	b.machine.mu.Unlock()
	if err := b.machine.closingStep.run(ctx, b); err != nil {
		return err
	}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	b.closed++
	b.machine.existing[b.user]--
	b.endLocked()
	return nil
}

// lose plays a box that ends by itself.
func (b *box) lose() {
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	b.endLocked()
}

func (b *box) endLocked() {
	b.endAgents()
	if !b.ended {
		b.ended = true
		close(b.lost)
	}
}

// fakeAgent is an agent in a box.
type fakeAgent struct {
	box  *box
	done chan struct{} // closed with machine.mu held
	deaf atomic.Bool   // the sandbox does not answer
	size int64         // memory that its end frees
}

// startAgent starts an agent in place of the one that waits.
func startAgent(ctx context.Context, w *Workspace, _ Agent) (Agent, error) {
	if err := w.EndAgent(ctx); err != nil {
		return nil, err
	}
	b := w.Sandbox.(*box)
	a := &fakeAgent{box: b, done: make(chan struct{})}
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	b.agents = append(b.agents, a)
	if b.ended {
		close(a.done)
	}
	return a, ctx.Err()
}

func (a *fakeAgent) Done() <-chan struct{} { return a.done }

func (a *fakeAgent) Alive(context.Context) bool { return !a.deaf.Load() && !isClosed(a.done) }

func (a *fakeAgent) End(context.Context) error {
	a.box.machine.mu.Lock()
	defer a.box.machine.mu.Unlock()
	a.end()
	return nil
}

func (a *fakeAgent) end() {
	if !isClosed(a.done) {
		close(a.done)
		a.box.machine.free += a.size
	}
}

// alive returns the agents of the box that have not ended.
func (b *box) alive() (alive []*fakeAgent) {
	for _, a := range b.agents {
		if !isClosed(a.done) {
			alive = append(alive, a)
		}
	}
	return alive
}

func (b *box) endAgents() {
	for _, a := range b.agents {
		a.end()
	}
}

func (b *box) isClosed() bool {
	b.machine.mu.Lock()
	defer b.machine.mu.Unlock()
	return b.closed > 0
}

func (b *box) setStale() { b.template.Store(&Template{Home: "/changed"}) }

// takes returns a step that lasts d, or until its context ends.
func takes(d time.Duration) func(context.Context, *box) error {
	return func(ctx context.Context, _ *box) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errBroken = errors.New("it is broken")

func fails(context.Context, *box) error { return errBroken }

// usual has times that are not multiples of the interval of the janitor.
var usual = Limits{Max: 2, Idle: 20*time.Minute + time.Second, MaxAge: 5*time.Hour + 2*time.Second}

// rig is a pool on a machine, in a synctest bubble.
type rig struct {
	*testing.T
	*machine
	*Pool
}

// inBubble runs a test with a pool and checks that nothing is left.
func inBubble(t *testing.T, limits Limits, test func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(limits.Max)
		p, err := newTestPool(m, limits, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { // even if the test fails: a blocked bubble would hide the reason
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := p.Close(ctx); err != nil {
				t.Error(err)
			}
			m.end(t)
		}()
		test(&rig{T: t, machine: m, Pool: p})
	})
}

func (r *rig) lease(n int) *Lease {
	r.Helper()
	l, err := r.Lease(r.Context(), user(n))
	if err != nil {
		r.Fatal(err)
	}
	if boxOf(l).user != user(n) {
		r.Fatalf("user %d got the box of %s", n, boxOf(l).user)
	}
	return l
}

// warm leaves an idle box for the user.
func (r *rig) warm(n int) *box {
	r.Helper()
	l := r.lease(n)
	l.Release(r.Context())
	return boxOf(l)
}

// leaseLater requests a lease in the background. It returns when the request waits
// or has succeeded.
func (r *rig) leaseLater(ctx context.Context, n int) <-chan *Lease {
	c := make(chan *Lease, 1)
	go func() {
		defer close(c)
		if l, err := r.Lease(ctx, user(n)); err == nil {
			c <- l
		}
	}()
	synctest.Wait()
	return c
}

// states returns the list in short form: "1 idle, 2 leased".
func (r *rig) states() string {
	s := ""
	for _, i := range r.List() {
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("%c %s", i.Name[len(i.Name)-1], i.State)
	}
	return s
}

func (r *rig) want(states string) {
	r.Helper()
	synctest.Wait()
	if got := r.states(); got != states {
		r.Fatalf("workspaces: %q, want %q", got, states)
	}
}

// lines is a log for tests.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count(s string) int { return strings.Count(l.String(), s) }
