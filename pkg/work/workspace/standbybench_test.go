package workspace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// bench creates standby sandboxes, and records their use.
type bench struct {
	t       *testing.T
	took    time.Duration // to start one
	closing time.Duration // to close one
	mu      sync.Mutex
	free    int64
	each    int64 // memory that each one takes from free
	fail    error // of the next starts
	made    []*item
	starts  int
	standby *Standby
}

type item struct {
	*sandboxtest.Fake
	id      string
	bench   *bench
	lost    chan struct{}
	once    sync.Once
	mute    bool // it does not answer; guarded by bench.mu, as are the fields below
	failing int  // number of attempts to close it that fail
	closed  int
}

func (i *item) Lost() <-chan struct{} { return i.lost }

// EndAll fails if the item is mute.
func (i *item) EndAll(ctx context.Context) error {
	i.bench.mu.Lock()
	defer i.bench.mu.Unlock()
	if i.mute {
		return errors.New("no answer")
	}
	return i.Fake.EndAll(ctx)
}

func (i *item) lose() { i.once.Do(func() { close(i.lost) }) }

func (i *item) ID() string { return i.id }

func (i *item) Close(ctx context.Context) error {
	i.bench.mu.Lock()
	pause := i.bench.closing
	i.bench.mu.Unlock()
	time.Sleep(pause)
	i.bench.mu.Lock()
	i.failing--
	fails := i.failing >= 0
	if !fails {
		i.closed++
	}
	i.bench.mu.Unlock()
	if fails {
		return errors.New("it does not end")
	}
	i.lose()
	return i.Fake.Close(ctx)
}

var standbySpec = sandbox.Spec{Root: sandbox.Root{Path: "/root"}}

func newBench(t *testing.T, l StandbyLimits) *bench {
	t.Helper()
	b := &bench{t: t, took: 300 * time.Millisecond, free: 1 << 40}
	b.standby = NewStandby(StandbyConfig{StandbyLimits: l, Create: b.create, Spec: standbySpec, Free: func() (int64, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		free := b.free
		for _, i := range b.made {
			if i.closed == 0 {
				free -= b.each
			}
		}
		return free, nil
	}})
	return b
}

func (b *bench) create(ctx context.Context, _ sandbox.Spec) (sandbox.Sandbox, error) {
	b.mu.Lock()
	b.starts++
	err, took := b.fail, b.took
	b.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := &item{Fake: &sandboxtest.Fake{}, lost: make(chan struct{}), id: fmt.Sprintf("s-%d", len(b.made)), bench: b}
	b.made = append(b.made, i)
	return i, nil
}

// get takes a sandbox and returns how long that took.
func (b *bench) get(spec sandbox.Spec) (sandbox.Sandbox, time.Duration) {
	b.t.Helper()
	start := time.Now()
	sb, err := b.standby.Create(b.t.Context(), spec)
	if err != nil {
		b.t.Fatal(err)
	}
	return sb, time.Since(start)
}

func (b *bench) close(sb sandbox.Sandbox) {
	b.t.Helper()
	if err := sb.Close(b.t.Context()); err != nil {
		b.t.Error(err)
	}
}

// end closes the standby sandboxes and checks that every one was closed once.
func (b *bench) end() {
	b.t.Helper()
	for range 2 {
		if err := b.standby.Close(); err != nil {
			b.t.Error(err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range b.made {
		if i.closed != 1 {
			b.t.Errorf("%s was closed %d times", i.id, i.closed)
		}
	}
}

func (b *bench) ready() int { return len(b.standby.List()) }

func (b *bench) item(n int) *item {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.made[n]
}

func (b *bench) tries() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.starts
}

var twoStandby = StandbyLimits{Count: 2, MaxAge: time.Hour, MinFree: 1 << 20}
