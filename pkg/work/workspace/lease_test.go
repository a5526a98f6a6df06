package workspace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func TestAWorkspaceIsReusedForItsUserOnly(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		first := r.lease(1)
		if first.Reused() || boxOf(first).probes != 0 {
			r.Errorf("a new workspace: reused %v, %d probes", first.Reused(), boxOf(first).probes)
		}
		first.Release(r.Context())
		first.Release(r.Context()) // has no effect
		if boxOf(first).cleans != 1 {
			r.Errorf("cleaned %d times between two jobs", boxOf(first).cleans)
		}
		if !errors.Is(context.Cause(first.Context()), context.Canceled) {
			r.Errorf("the context of a released lease: %v", context.Cause(first.Context()))
		}
		second := r.lease(1)
		if !second.Reused() || boxOf(second) != boxOf(first) || boxOf(second).probes != 1 {
			r.Errorf("the second lease: reused %v, %s, %d probes", second.Reused(), boxOf(second).id, boxOf(second).probes)
		}
		other := r.lease(2)
		if other.Reused() || boxOf(other) == boxOf(first) {
			r.Error("another user got it")
		}
		first.Release(r.Context()) // an old lease does not affect a later one
		if l := r.List(); l[0].State != StateLeased || l[0].Jobs != 2 || l[0].Sandbox != "box-0" || l[0].Name != "user-"+string(user(1)) {
			r.Errorf("listed as %+v", l[0])
		}
		second.Release(r.Context())
		other.Release(r.Context())
		r.want("1 idle, 2 idle")
	})
}

func TestAnUnfitWorkspaceIsReplaced(t *testing.T) {
	for name, spoil := range map[string]func(r *rig, b *box){
		"the probe fails":       func(r *rig, b *box) { r.probingStep.set(fails) },
		"the probe hangs":       func(r *rig, b *box) { r.probingStep.set(takes(time.Hour)) },
		"the probe sees a loss": func(r *rig, b *box) { r.probingStep.set(func(context.Context, *box) error { b.lose(); return nil }) },
		"lost":                  func(r *rig, b *box) { b.lose() },
		"stale":                 func(r *rig, b *box) { b.setStale() },
		"too old":               func(r *rig, b *box) { time.Sleep(usual.MaxAge) },
		"idle for too long":     func(r *rig, b *box) { time.Sleep(usual.Idle) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, usual, func(r *rig) {
				r.closingStep.set(takes(time.Second)) // the new one waits for it
				old := r.warm(1)
				spoil(r, old)
				l := r.lease(1)
				if l.Reused() || boxOf(l) == old {
					r.Error("the old one was leased")
				}
				if !old.isClosed() {
					r.Error("the old one is still there")
				}
				if l.Context().Err() != nil {
					r.Error("the new lease has ended: ", context.Cause(l.Context()))
				}
				r.probingStep.set(nil)
				l.Release(r.Context())
				r.want("1 idle")
			})
		})
	}
}

func TestAnUnfitWorkspaceIsNotPooled(t *testing.T) {
	for name, spoil := range map[string]func(r *rig, b *box){
		"lost":                func(r *rig, b *box) { b.lose() },
		"stale":               func(r *rig, b *box) { b.setStale() },
		"too old":             func(r *rig, b *box) { time.Sleep(usual.MaxAge) },
		"not clean":           func(r *rig, b *box) { r.cleaningStep.set(fails) },
		"not clean in time":   func(r *rig, b *box) { r.cleaningStep.set(takes(time.Hour)) },
		"lost in the cleanup": func(r *rig, b *box) { r.cleaningStep.set(func(context.Context, *box) error { b.lose(); return nil }) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, usual, func(r *rig) {
				l := r.lease(1)
				spoil(r, boxOf(l))
				l.Release(r.Context())
				r.want("")
				if !boxOf(l).isClosed() {
					r.Error("it is still there")
				}
			})
		})
	}
}

func TestAJobMayBeLongerThanTheAgeLimit(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		l := r.lease(1)
		time.Sleep(2 * usual.MaxAge)
		if l.Context().Err() != nil || boxOf(l).isClosed() {
			r.Error("a lease ended because of its age")
		}
		l.Release(r.Context())
		r.want("")
	})
}

func TestReleaseCleansAfterTheEndOfItsContext(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.cleaningStep.set(takes(time.Second))
		ctx, cancel := context.WithCancel(r.Context())
		l, err := r.Lease(ctx, user(1))
		if err != nil {
			r.Fatal(err)
		}
		cancel()
		if l.Context().Err() == nil {
			r.Error("the lease's context outlives the context of the request")
		}
		l.Release(ctx)
		r.want("1 idle")
	})
}

func TestALostSandboxEndsTheContextOfTheLease(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		l := r.lease(1)
		boxOf(l).lose()
		<-l.Context().Done()
		if err := context.Cause(l.Context()); !errors.Is(err, sandbox.ErrLost) {
			r.Errorf("the cause is %v", err)
		}
		synctest.Wait()
		if boxOf(l).isClosed() {
			r.Error("closed while its holder may still need the reason")
		}
		l.Release(r.Context())
		r.want("")
	})
}

func TestTheSecondLeaseOfAUserWaitsForTheFirst(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.cleaningStep.set(takes(time.Second))
		first := r.lease(1)
		waits := r.leaseLater(r.Context(), 1)
		short, cancel := context.WithTimeoutCause(r.Context(), time.Minute, errBroken)
		defer cancel()
		if _, err := r.Lease(short, user(1)); !errors.Is(err, errBroken) {
			r.Errorf("a lease while the first one lasts: %v", err)
		}
		other := r.lease(2) // another user does not wait
		select {
		case <-waits:
			r.Fatal("two leases of one user")
		default:
		}
		go first.Release(r.Context())
		second := <-waits
		if boxOf(second) != boxOf(first) || boxOf(second).cleans != 1 {
			r.Error("the second lease began before the cleaning ended")
		}
		second.Release(r.Context())
		other.Release(r.Context())
	})
}

func TestAFailedCreationLeavesNoEntry(t *testing.T) {
	inBubble(t, Limits{Max: 1, Idle: time.Hour, MaxAge: time.Hour}, func(r *rig) {
		r.creatingStep.set(fails)
		if _, err := r.Lease(r.Context(), user(1)); !errors.Is(err, errBroken) {
			r.Errorf("%v", err)
		}
		if _, err := r.Prewarm(r.Context(), user(1)); !errors.Is(err, errBroken) {
			r.Errorf("%v", err)
		}
		r.creatingStep.set(func(context.Context, *box) error { panic("broken") })
		func() {
			defer func() { _ = recover() }()
			_, _ = r.Lease(r.Context(), user(1))
		}()
		r.machine.mu.Lock()
		r.existing[user(1)], r.creating = 0, 0 // the panic skipped their update
		r.machine.mu.Unlock()
		r.want("")
		r.creatingStep.set(nil)
		r.lease(2).Release(r.Context())
	})
}

func TestGivingUpDuringTheCreation(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.creatingStep.set(takes(time.Hour))
		ctx, cancel := context.WithTimeoutCause(r.Context(), time.Second, errBroken)
		defer cancel()
		if _, err := r.Lease(ctx, user(1)); !errors.Is(err, errBroken) {
			r.Errorf("%v", err)
		}
		if _, err := r.Lease(ctx, user(1)); !errors.Is(err, errBroken) {
			r.Errorf("with a context that has ended: %v", err)
		}
		r.want("")
	})
}

func TestGivingUpDuringTheProbeKeepsTheWorkspace(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		old := r.warm(1)
		r.probingStep.set(takes(time.Second))
		ctx, cancel := context.WithTimeout(r.Context(), time.Millisecond)
		defer cancel()
		if _, err := r.Lease(ctx, user(1)); !errors.Is(err, context.DeadlineExceeded) {
			r.Errorf("%v", err)
		}
		r.want("1 idle")
		if l := r.lease(1); boxOf(l) != old {
			r.Error("a healthy workspace was replaced")
		}
	})
}

func TestAPanicLeavesNoEntryHeld(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		bad := func(context.Context, *box) error { panic("broken") }
		quietly := func(f func()) {
			defer func() { _ = recover() }()
			f()
		}
		l := r.lease(1)
		r.cleaningStep.set(bad)
		quietly(func() { l.Release(r.Context()) })
		r.want("")
		r.cleaningStep.set(nil)
		r.warm(1)
		r.probingStep.set(bad)
		quietly(func() { _, _ = r.Lease(r.Context(), user(1)) })
		r.want("")
	})
}

func TestMemoryThatCannotBeReadIsRefused(t *testing.T) {
	m := newMachine(1)
	m.blind = errBroken
	if _, err := newTestPool(m, Limits{Max: 1, Idle: 1, MaxAge: 1, MinFree: 1}, nil); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("a limit for memory that cannot be read: %v", err)
	}
}
