package workspace

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func TestAStandbySandboxIsReadyAndReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, twoStandby)
		time.Sleep(time.Second)
		list := b.standby.List()
		if len(list) != 2 || list[0].Name != StandbyName || list[0].State != StateStandby || list[0].Sandbox != "s-0" {
			t.Fatalf("standby: %+v", list)
		}
		first, took := b.get(standbySpec)
		if first.ID() != "s-0" || took != 0 {
			t.Errorf("got %s after %v", first.ID(), took)
		}
		time.Sleep(time.Second)
		if b.ready() != 1 {
			t.Error("the next one was started while the first was in use")
		}
		b.close(first)
		time.Sleep(time.Second)
		if b.ready() != 2 {
			t.Errorf("%d after one was used", b.ready())
		}
		second, _ := b.get(standbySpec)
		time.Sleep(3 * time.Second)
		if b.ready() != 2 {
			t.Error("a long use prevents the start of the next one")
		}
		if second.ID() == first.ID() {
			t.Error("a sandbox was handed out twice")
		}
		b.close(second)
		b.end()
	})
}

func TestTheFirstCallerWaitsForTheStartingSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
		time.Sleep(100 * time.Millisecond)
		var wg sync.WaitGroup
		times := make([]time.Duration, 3)
		for n := range times {
			wg.Go(func() {
				sb, took := b.get(standbySpec)
				times[n] = took
				b.close(sb)
			})
		}
		wg.Wait()
		waited, cold := 0, 0
		for _, took := range times {
			switch took {
			case 200 * time.Millisecond:
				waited++
			case 300 * time.Millisecond:
				cold++
			}
		}
		if waited != 1 || cold != 2 {
			t.Errorf("they took %v", times)
		}
		b.end()
	})
}

func TestOtherSpecsGetNewSandboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, twoStandby)
		time.Sleep(time.Second)
		for _, spec := range []sandbox.Spec{
			{Root: standbySpec.Root, Mounts: []sandbox.Mount{{Source: "/x", Target: "/y"}}},
			{Root: sandbox.Root{Path: "/other"}},
			{Root: standbySpec.Root, Limits: sandbox.Limits{Processes: 1}},
		} {
			sb, took := b.get(spec)
			if took != b.took {
				t.Errorf("%+v took %v", spec, took)
			}
			b.close(sb)
		}
		if b.ready() != 2 {
			t.Errorf("%d are ready", b.ready())
		}
		b.end()
	})
}

// A sandbox that is lost or does not answer is never handed out.
func TestABrokenSandboxIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
		time.Sleep(time.Second)
		b.item(0).lose()
		time.Sleep(time.Second)
		if l := b.standby.List(); len(l) != 1 || l[0].Sandbox != "s-1" {
			t.Fatalf("after one was lost: %+v", l)
		}
		mute := b.item(1)
		b.mu.Lock()
		mute.mute = true
		b.mu.Unlock()
		sb, took := b.get(standbySpec)
		if sb.ID() == "s-1" || took > b.took {
			t.Errorf("got %s after %v", sb.ID(), took)
		}
		b.close(sb)
		time.Sleep(5 * time.Second)
		if b.ready() != 1 {
			t.Errorf("%d after one did not answer", b.ready())
		}
		sb, _ = b.get(standbySpec)
		b.close(sb)
		time.Sleep(time.Second)
		if b.ready() != 1 {
			t.Error("the one that did not answer counts as in use")
		}
		b.end()
	})
}

func TestOldSandboxesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Minute})
		time.Sleep(10*time.Minute + time.Second)
		if l := b.standby.List(); len(l) != 1 || time.Since(l[0].Created) > time.Minute || b.tries() < 9 || b.tries() > 11 {
			t.Errorf("after ten minutes, %d starts: %+v", b.tries(), l)
		}
		b.end()
	})
}

func TestNoStandbyWhenMemoryIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, twoStandby)
		time.Sleep(time.Second)
		b.setFree(1)
		time.Sleep(5 * time.Second)
		if b.ready() != 0 {
			t.Errorf("%d are ready", b.ready())
		}
		sb, took := b.get(standbySpec)
		if took != b.took {
			t.Errorf("took %v", took)
		}
		b.close(sb)
		b.setFree(twoStandby.MinFree + 1) // not enough to start one
		time.Sleep(5 * time.Minute)
		if b.ready() != 0 {
			t.Errorf("%d with hardly any memory", b.ready())
		}
		b.setFree(1 << 40)
		time.Sleep(5 * time.Second)
		if b.ready() != 2 {
			t.Errorf("%d with memory again", b.ready())
		}
		b.end()
	})
}

func (b *bench) setFree(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = n
}

func TestFailedStartsAreRetriedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, took: time.Millisecond, free: 1 << 40, fail: errors.New("no cgroup")}
		b.standby = NewStandby(StandbyConfig{StandbyLimits: twoStandby, Create: b.create, Spec: standbySpec})
		time.Sleep(10 * time.Minute)
		if n := b.tries(); n < 8 || n > 20 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		if _, err := b.standby.Create(t.Context(), standbySpec); err == nil || err.Error() != "no cgroup" {
			t.Errorf("the caller got %v", err)
		}
		b.mu.Lock()
		b.fail = nil
		b.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if b.ready() != 2 {
			t.Errorf("%d when starts succeed again", b.ready())
		}
		b.mu.Lock()
		b.fail = errors.New("no cgroup")
		b.mu.Unlock()
		tries := b.tries()
		sb, _ := b.get(standbySpec)
		b.close(sb)
		time.Sleep(5 * time.Second)
		if n := b.tries() - tries; n < 2 {
			t.Errorf("%d attempts in the first seconds of another fault", n)
		}
		b.end()
	})
}

func TestStandbyLimitsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{})
		time.Sleep(time.Minute)
		for _, n := range []int{0, 3, 1, 2, 0} {
			b.standby.Apply(StandbyLimits{Count: n, MaxAge: time.Hour})
			time.Sleep(2 * time.Second)
			if b.ready() != n {
				t.Errorf("%d are ready, want %d", b.ready(), n)
			}
		}
		if b.tries() != 4 {
			t.Errorf("%d starts; a lower count needs none", b.tries())
		}
		b.end()
	})
}

// Close comes while one is being started and another one is in use.
func TestCloseDuringAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, twoStandby)
		time.Sleep(400 * time.Millisecond) // the first is ready, the second is being started
		sb, _ := b.get(standbySpec)
		start := time.Now()
		if err := b.standby.Close(); err != nil {
			t.Error(err)
		}
		if time.Since(start) > time.Second {
			t.Errorf("closing took %v", time.Since(start))
		}
		tries := b.tries()
		time.Sleep(time.Minute)
		if b.tries() != tries {
			t.Error("a sandbox was started after Close")
		}
		if late, err := b.standby.Create(t.Context(), standbySpec); err != nil {
			t.Error(err)
		} else {
			b.close(late)
		}
		b.close(sb)
		b.end()
	})
}

// No sandbox is handed out twice.
func TestManyConcurrentCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, twoStandby)
		time.Sleep(time.Second)
		seen := map[string]bool{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for n := range 200 {
			wg.Go(func() {
				time.Sleep(time.Duration(n%50) * 20 * time.Millisecond)
				sb, _ := b.get(standbySpec)
				mu.Lock()
				if seen[sb.ID()] {
					t.Errorf("%s was handed out twice", sb.ID())
				}
				seen[sb.ID()] = true
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
				b.close(sb)
			})
		}
		wg.Wait()
		time.Sleep(3 * time.Second)
		if b.ready() != 2 {
			t.Errorf("%d afterwards", b.ready())
		}
		b.end()
	})
}

// Sandboxes whose start makes memory short are not started and closed all the time.
func TestStandbyDoesNotFlapWhenMemoryIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour, MinFree: 100 << 20})
		time.Sleep(time.Second)
		b.mu.Lock()
		b.free, b.each = 230<<20, 140<<20 // enough to start one, not to keep it
		b.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if n := b.tries(); n > 12 {
			t.Errorf("%d starts in ten minutes", n)
		}
		b.end()
	})
}

// If a caller finds none, the next one is started without a delay.
func TestAMissStartsTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
		time.Sleep(time.Second)
		first, _ := b.get(standbySpec)
		time.Sleep(100 * time.Millisecond)
		second, took := b.get(standbySpec)
		if took != b.took {
			t.Errorf("the second took %v", took)
		}
		time.Sleep(time.Second)
		if b.ready() != 1 {
			t.Errorf("%d a second after a miss", b.ready())
		}
		b.close(first)
		b.close(first)
		b.close(second)
		// A second Close does not count.
		third, _ := b.get(standbySpec)
		time.Sleep(time.Second)
		if b.ready() != 0 {
			t.Error("the next one was started while the first was in use")
		}
		b.close(third)
		b.standby.Close()
	})
}

// The caller that waits for a start gets the sandbox, even if others come when it is
// ready.
func TestTheWaitingCallerGetsTheSandbox(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
			time.Sleep(100 * time.Millisecond)
			var wg sync.WaitGroup
			wg.Go(func() {
				sb, took := b.get(standbySpec)
				if took != 200*time.Millisecond {
					t.Errorf("the waiting caller took %v", took)
				}
				b.close(sb)
			})
			time.Sleep(time.Millisecond)
			for range 20 {
				wg.Go(func() {
					time.Sleep(199 * time.Millisecond)
					sb, _ := b.get(standbySpec)
					b.close(sb)
				})
			}
			wg.Wait()
			b.end()
		})
	}
}

func TestGivingUpLeavesTheSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
		time.Sleep(100 * time.Millisecond)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			start := time.Now()
			if sb, err := b.standby.Create(ctx, standbySpec); err == nil || time.Since(start) != 20*time.Millisecond {
				t.Errorf("%v, %v after %v", sb, err, time.Since(start))
			}
			cancel()
		}
		sb, took := b.get(standbySpec) // the next caller waits in their place
		if sb.ID() != "s-0" || took != 160*time.Millisecond {
			t.Errorf("%s after %v", sb.ID(), took)
		}
		b.close(sb)
		b.end()
	})
}

// The old one and the new one must not take memory at the same time.
func TestTheNextOneStartsAfterTheOldOneIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
		b.mu.Lock()
		b.closing = 10 * time.Second
		b.mu.Unlock()
		time.Sleep(time.Second)
		for n, end := range []func(){
			func() { time.Sleep(time.Hour) },
			func() { b.item(1).lose() },
			func() {
				b.mu.Lock()
				b.made[2].mute = true
				b.mu.Unlock()
				b.standby.take(t.Context())
			},
		} {
			end()
			time.Sleep(5 * time.Second)
			if started := b.tries(); started != n+1 || b.ready() != 0 {
				t.Errorf("%d: %d were started, %d are ready while the old one is closed", n, started, b.ready())
			}
			time.Sleep(6 * time.Second)
			if started := b.tries(); started != n+2 || b.ready() != 1 {
				t.Errorf("%d: %d were started, %d are ready", n, started, b.ready())
			}
		}
		b.end()
	})
}

func TestClosingIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
		time.Sleep(time.Second)
		stuck := b.item(0)
		b.mu.Lock()
		stuck.mute, stuck.failing = true, 5
		b.mu.Unlock()
		sb, _ := b.get(standbySpec)
		b.close(sb)
		time.Sleep(time.Second)
		if b.ready() != 1 {
			t.Errorf("%d besides one that cannot be closed", b.ready())
		}
		time.Sleep(2 * time.Minute)
		b.end()
	})
}

func TestCloseReportsSandboxesThatCannotBeClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, twoStandby)
		time.Sleep(time.Second)
		b.mu.Lock()
		b.made[0].failing, b.made[1].failing = 1, 100
		b.mu.Unlock()
		start := time.Now()
		err := b.standby.Close()
		if err == nil || dreamcore.CodeOf(err) != dreamcore.CodeInternal || time.Since(start) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if b.item(0).closed != 1 {
			t.Error("the other one was not closed")
		}
	})
}

// If a caller had to wait, the next one is started without a delay: callers come
// faster than sandboxes start.
func TestAWaitStartsTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, StandbyLimits{Count: 1, MaxAge: time.Hour})
		time.Sleep(100 * time.Millisecond)
		sb, _ := b.get(standbySpec)
		time.Sleep(400 * time.Millisecond)
		if b.ready() != 1 {
			t.Errorf("%d after a caller has waited for one", b.ready())
		}
		b.close(sb)
		b.end()
	})
}
