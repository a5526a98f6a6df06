package workspace

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// TestInvariantsUnderRandomCalls lets many callers use the pool at random, with few
// users and slots, on a machine where every step is slow and may fail. The machine
// records violations: more workspaces than the limit, two of one user, one closed
// twice. The callers record the others. The bubble ends the test if the pool
// deadlocks.
func TestInvariantsUnderRandomCalls(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	var totals tally
	for seed := range rounds {
		if t.Failed() {
			t.Fatalf("with seed %d", seed-1)
		}
		synctest.Test(t, func(t *testing.T) { chaos(t, uint64(seed), &totals) })
	}
	t.Logf("%+v", totals.of)
	for _, name := range []string{"lease", "reused", "ended early", "gave up", "stopped", "prewarm", "prewarm busy", "creation failed", "agent started", "agent taken"} {
		if totals.of[name] == 0 {
			t.Errorf("the test never saw %q", name)
		}
	}
}

// tally counts the events: a test that saw none of a kind must not pass.
type tally struct {
	mu sync.Mutex
	of map[string]int
}

func (c *tally) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]int{}
	}
	c.of[name]++
}

// caller is one of many concurrent users of the pool.
type caller struct {
	*testing.T
	m   *machine
	p   *Pool
	rnd *rand.Rand
	sum *tally
}

const callers, acts, users = 12, 25, 5

func chaos(t *testing.T, seed uint64, sum *tally) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	limits := Limits{
		Max: 1 + rnd.IntN(4), Idle: time.Duration(1+rnd.IntN(60)) * time.Second,
		MaxAge: time.Duration(1+rnd.IntN(5)) * time.Minute, MinFree: 50,
		WarmAgents: rnd.IntN(4),
	}
	m := newMachine(limits.Max)
	m.unruly(seed)
	p, err := newTestPool(m, limits, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range callers {
		c := &caller{T: t, m: m, p: p, rnd: rand.New(rand.NewPCG(seed, uint64(n+1))), sum: sum}
		wg.Go(func() {
			for range acts {
				c.act()
			}
		})
	}
	if seed%3 == 0 { // during the calls
		time.Sleep(time.Duration(rnd.IntN(120)) * time.Second)
	} else {
		wg.Wait()
	}
	m.closingStep.set(takes(time.Second)) // failures of Close have their own test
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(60))*time.Second)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if l := p.List(); len(l) != 0 {
		t.Errorf("left after Close: %+v", l)
	}
	m.end(t)
}

// unruly makes every step slow and unreliable.
func (m *machine) unruly(seed uint64) {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 1<<32))
	roll := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	unruly := func(longest time.Duration, failures int) func(context.Context, *box) error {
		return func(ctx context.Context, b *box) error {
			d := time.Duration(roll(int(longest/time.Millisecond)+1)) * time.Millisecond
			fate := roll(100)
			switch {
			case fate >= failures:
				return takes(d)(ctx, b)
			case fate%2 == 0:
				time.Sleep(d) // ignores its context
				return errBroken
			}
			<-ctx.Done() // it hangs until then
			return ctx.Err()
		}
	}
	m.creatingStep.set(func(ctx context.Context, b *box) error {
		time.Sleep(time.Duration(roll(1000)) * time.Millisecond)
		if roll(10) == 0 {
			return errBroken
		}
		if roll(4) == 0 {
			return nil // even if its context has ended
		}
		return ctx.Err()
	})
	m.closingStep.set(unruly(time.Second, 20))
	m.cleaningStep.set(unruly(time.Second, 10))
	m.probingStep.set(unruly(10*time.Millisecond, 10))
}

func (c *caller) act() {
	u := user(c.rnd.IntN(users))
	time.Sleep(time.Duration(c.rnd.IntN(3)*c.rnd.IntN(3000)) * time.Millisecond)
	switch c.rnd.IntN(10) {
	case 0:
		err := c.p.Stop(c.shortly(), Name(u))
		switch {
		case err == nil:
			c.sum.add("stopped")
		case dreamcore.CodeOf(err) != dreamcore.CodeNotFound && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errBroken):
			c.Errorf("stop: %v", err)
		}
	case 1:
		_, err := c.p.Prewarm(c.shortly(), u)
		switch {
		case err == nil:
			c.sum.add("prewarm")
		case dreamcore.CodeOf(err) == dreamcore.CodeBusy && !errors.Is(err, ErrClosed):
			c.sum.add("prewarm busy")
		}
	case 2:
		c.m.upset(c.rnd)
	case 3:
		c.m.setFree(int64(c.rnd.IntN(300)) << (30 * c.rnd.IntN(2)))
		for _, i := range c.p.List() {
			if i.Name != Name(i.User) {
				c.Errorf("listed as %+v", i)
			}
		}
	case 4:
		c.warm(u)
	default:
		c.job(u)
	}
}

// warm lets an agent wait.
func (c *caller) warm(u dreamcore.UserID) {
	fault := c.rnd.IntN(5) == 0
	err := c.p.Warm(c.shortly(), u, func(ctx context.Context, w *Workspace, waiting Agent) (Agent, error) {
		if a := waiting; a != nil && c.rnd.IntN(2) == 0 {
			return a, nil
		}
		a, err := startAgent(ctx, w, waiting)
		if fault {
			return nil, errBroken
		}
		if err == nil {
			c.sum.add("agent started")
		}
		return a, err
	})
	if err != nil && !fault && ctxErr(err) == nil && !errors.Is(err, errBroken) && dreamcore.CodeOf(err) != dreamcore.CodeBusy && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrStopped) {
		c.Errorf("warm: %v", err)
	}
	if n := c.p.Agents(); n > c.p.limits.WarmAgents {
		c.Errorf("%d agents wait", n)
	}
}

// ctxErr returns err if a context has ended.
func ctxErr(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// shortly returns a context that ends within a minute.
func (c *caller) shortly() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.rnd.IntN(60_000))*time.Millisecond)
	time.AfterFunc(time.Minute, cancel)
	return ctx
}

// upset loses some of the boxes, and makes others stale.
func (m *machine) upset(rnd *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.boxes {
		if b.closed == 0 && rnd.IntN(3) == 0 {
			if rnd.IntN(2) == 0 {
				b.endLocked()
			} else {
				b.setStale()
			}
		}
	}
}

// job leases, works for a while, and releases.
func (c *caller) job(u dreamcore.UserID) {
	ctx := context.Background()
	if c.rnd.IntN(3) == 0 {
		ctx = c.shortly()
	}
	l, err := c.p.Lease(ctx, u)
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		c.sum.add("gave up")
		return
	case errors.Is(err, errBroken):
		c.sum.add("creation failed")
		return
	case errors.Is(err, ErrClosed), errors.Is(err, ErrStopped):
		return
	default:
		c.Errorf("lease: %v", err)
		return
	}
	c.sum.add("lease")
	if l.Reused() {
		c.sum.add("reused")
	}
	b := boxOf(l)
	agent := l.Workspace().TakeAgent()
	if fault := c.m.enter(b, u, agent); fault != "" {
		c.Error(fault)
	}
	if agent != nil {
		c.sum.add("agent taken")
	}
	select {
	case <-time.After(time.Duration(c.rnd.IntN(30_000)) * time.Millisecond):
	case <-l.Context().Done():
		c.sum.add("ended early")
		err := context.Cause(l.Context())
		if !errors.Is(err, sandbox.ErrLost) && !errors.Is(err, ErrStopped) && !errors.Is(err, ErrClosed) && ctx.Err() == nil {
			c.Errorf("a lease ended early: %v", err)
		}
	}
	if c.m.leave(b) {
		time.Sleep(time.Nanosecond) // lets all other goroutines run until they block
		if l.Context().Err() == nil {
			c.Errorf("%s has ended, and the context of its lease has not", b.id)
		}
	}
	l.Release(ctx)
}

// enter records that a job of u begins in the box.
func (m *machine) enter(b *box, u dreamcore.UserID, agent Agent) (fault string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch alive := b.alive(); {
	case len(alive) > 1 || len(alive) == 1 && Agent(alive[0]) != agent:
		fault = fmt.Sprintf("%d agents run in %s, %v was taken", len(alive), b.id, agent)
	case b.user != u:
		fault = fmt.Sprintf("%s got the box of %s", u, b.user)
	case b.dirty:
		fault = fmt.Sprintf("%s was leased dirty", b.id)
	}
	for _, o := range m.boxes {
		if o.held && o.user == u {
			fault = fmt.Sprintf("two holders of %s", u)
		}
	}
	b.held, b.dirty = true, true
	return fault
}

// leave records the end of the job, and reports whether the box has ended.
func (m *machine) leave(b *box) (ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.held = false
	return b.ended
}
