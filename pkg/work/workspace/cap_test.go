package workspace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestTheLeastRecentlyUsedWorkspaceIsEvicted(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.closingStep.set(takes(time.Second)) // a closing workspace counts until it is closed
		for range 10 {                        // because maps have a random order
			a := r.warm(1)
			time.Sleep(time.Second)
			b := r.warm(2)
			time.Sleep(time.Second)
			r.warm(1) // now 2 is the older one
			r.warm(3)
			r.want("1 idle, 3 idle")
			time.Sleep(time.Second)
			r.warm(1)
			r.warm(4)
			r.want("1 idle, 4 idle")
			if a.isClosed() || !b.isClosed() {
				r.Fatal("the wrong one was evicted")
			}
			for _, n := range []int{1, 4} {
				if err := r.Stop(r.Context(), Name(user(n))); err != nil {
					r.Fatal(err)
				}
			}
		}
	})
}

func TestAUserKeepsTheTurnDuringAReplacement(t *testing.T) {
	inBubble(t, Limits{Max: 1, Idle: time.Hour, MaxAge: time.Hour}, func(r *rig) {
		r.warm(1)
		r.probingStep.set(func(context.Context, *box) error { time.Sleep(time.Second); return errBroken })
		first := r.leaseLater(r.Context(), 1)
		second := r.leaseLater(r.Context(), 2)
		time.Sleep(time.Second)
		r.want("1 leased")
		r.probingStep.set(nil)
		(<-first).Release(r.Context())
		(<-second).Release(r.Context())
	})
}

func TestAReplacementEvictsNoOther(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.warm(2)
		time.Sleep(time.Second)
		r.warm(1)
		time.Sleep(time.Second)
		r.boxes[1].setStale()
		r.closingStep.set(takes(time.Second))
		r.lease(1).Release(r.Context())
		r.want("1 idle, 2 idle")
		if r.boxes[0].isClosed() {
			r.Error("the workspace of another user was evicted for it")
		}
	})
}

func TestASlowHolderDoesNotBlockOthers(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		stopped := r.lease(1)
		if err := r.Stop(r.Context(), Name(user(1))); err != nil {
			r.Fatal(err)
		}
		r.warm(2)
		began := time.Now()
		r.lease(3).Release(r.Context())
		r.want("1 closing, 3 idle")
		if time.Since(began) != 0 {
			r.Error("it waited for the holder of a stopped workspace")
		}
		stopped.Release(r.Context())
	})
}

func TestStopInTheProbe(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.warm(1)
		r.probingStep.set(func(context.Context, *box) error { time.Sleep(time.Second); return nil })
		first := r.leaseLater(r.Context(), 1)
		if err := r.Stop(r.Context(), Name(user(1))); err != nil {
			r.Fatal(err)
		}
		second := r.leaseLater(r.Context(), 1) // must not overtake the first lease
		l := <-first
		if l == nil || l.Reused() || l.Context().Err() != nil {
			r.Fatalf("a workspace that was stopped during its probe was leased: %+v", l)
		}
		r.want("1 leased")
		l.Release(r.Context())
		(<-second).Release(r.Context())
	})
}

func TestAtTheCapLeasesWaitInOrder(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		first, second := r.lease(1), r.lease(2)
		third := r.leaseLater(r.Context(), 3)
		ctx, giveUp := context.WithCancel(r.Context())
		fourth := r.leaseLater(ctx, 4)
		fifth := r.leaseLater(r.Context(), 5)
		again := r.leaseLater(r.Context(), 1) // comes last, although its workspace exists
		r.want("1 leased, 2 leased")

		giveUp()
		if l := <-fourth; l != nil {
			r.Fatal("a caller that gave up got a lease")
		}
		second.Release(r.Context())
		l3 := <-third
		r.want("1 leased, 3 leased")
		first.Release(r.Context())
		l5 := <-fifth
		r.want("3 leased, 5 leased")
		l3.Release(r.Context())
		l1 := <-again
		if l1.Reused() {
			r.Error("the last caller got a workspace before the others")
		}
		l1.Release(r.Context())
		l5.Release(r.Context())
	})
}

func TestEvictionsMatchTheWaiters(t *testing.T) {
	inBubble(t, Limits{Max: 3, Idle: time.Hour, MaxAge: time.Hour}, func(r *rig) {
		r.closingStep.set(takes(time.Second))
		for n := range 3 {
			r.warm(n)
			time.Sleep(time.Second)
		}
		a := r.leaseLater(r.Context(), 7)
		r.want("0 closing, 1 idle, 2 idle")
		b := r.leaseLater(r.Context(), 7) // of a user that waits already
		r.want("0 closing, 1 idle, 2 idle")
		c := r.leaseLater(r.Context(), 0) // of a user whose workspace is closing for another
		r.want("0 closing, 1 closing, 2 idle")
		(<-a).Release(r.Context())
		(<-b).Release(r.Context())
		(<-c).Release(r.Context())
		r.want("0 idle, 2 idle, 7 idle")
	})
}

func TestAWorkspaceThatCannotBeClosedCountsAndDoesNotBlockOthers(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		broken := r.warm(1)
		time.Sleep(time.Second)
		r.warm(2)
		r.closingStep.set(func(_ context.Context, b *box) error {
			if b == broken {
				return errBroken
			}
			return nil
		})
		began := time.Now()
		l := r.lease(3) // 2 is evicted in place of 1
		if time.Since(began) != 0 {
			r.Error("it waited for the one that cannot be closed")
		}
		r.want("1 closing, 3 leased")
		own := r.leaseLater(r.Context(), 1) // which must not run together with the old one
		if _, err := r.Prewarm(r.Context(), user(1)); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
			r.Errorf("prewarm while the old one cannot be closed: %v", err)
		}
		err := r.Stop(r.Context(), Name(user(1)))
		if !errors.Is(err, errBroken) || dreamcore.CodeOf(err) != dreamcore.CodeInternal || dreamcore.HintOf(err) == "" {
			r.Errorf("stop of one that cannot be closed: %v", err)
		}
		l.Release(r.Context())
		r.want("1 closing, 3 idle") // user 1 still waits for its own entry
		l = r.lease(3)
		time.Sleep(time.Hour)
		r.want("1 closing, 3 leased")
		r.machine.mu.Lock()
		if broken.tries < 30 || broken.tries > 100 {
			r.Errorf("%d attempts to close it in an hour", broken.tries)
		}
		r.machine.mu.Unlock()
		r.closingStep.set(nil)
		(<-own).Release(r.Context())
		l.Release(r.Context())
		r.want("1 idle, 3 idle")
	})
}

func TestPrewarm(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		prewarm := func(n int, already bool, code dreamcore.Code) {
			r.Helper()
			got, err := r.Prewarm(r.Context(), user(n))
			if got != already || (code == "") != (err == nil) || (err != nil && (dreamcore.CodeOf(err) != code || dreamcore.HintOf(err) == "")) {
				r.Fatalf("prewarm of %d: %v, %v", n, got, err)
			}
		}
		r.closingStep.set(takes(time.Second))
		r.creatingStep.set(takes(time.Second))
		prewarm(1, false, "")
		prewarm(1, true, "")
		r.want("1 idle")
		if jobs := r.List()[0].Jobs; jobs != 0 {
			r.Errorf("%d jobs before the first", jobs)
		}
		r.boxes[0].lose()
		prewarm(1, false, "")
		time.Sleep(usual.Idle - time.Second)
		prewarm(1, true, "") // restarts its idle time
		time.Sleep(usual.Idle - time.Second)
		first := r.lease(1)
		if !first.Reused() || boxOf(first).cleans != 0 {
			r.Error("the prewarmed workspace was not leased")
		}
		prewarm(1, true, "") // in use
		second := r.leaseLater(r.Context(), 2)
		r.want("1 leased, 2 starting")
		prewarm(2, true, "")
		l2 := <-second
		began := time.Now()
		prewarm(3, false, dreamcore.CodeBusy)
		waits := r.leaseLater(r.Context(), 3)
		prewarm(3, false, dreamcore.CodeBusy)
		prewarm(4, false, dreamcore.CodeBusy)
		if time.Since(began) != 0 {
			r.Error("prewarm waited for a lease to end")
		}
		first.Release(r.Context())
		(<-waits).Release(r.Context())
		prewarm(4, false, "") // evicts 3
		r.want("2 leased, 4 idle")
		l2.Release(r.Context())
	})
}

func TestAFailedPrewarmFreesItsSlot(t *testing.T) {
	inBubble(t, Limits{Max: 1, Idle: time.Hour, MaxAge: time.Hour}, func(r *rig) {
		r.creatingStep.set(takes(time.Minute))
		ctx, giveUp := context.WithCancelCause(r.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := r.Prewarm(ctx, user(1))
			failed <- err
		}()
		synctest.Wait()
		own, other := r.leaseLater(r.Context(), 1), r.leaseLater(r.Context(), 2)
		giveUp(errBroken)
		if err := <-failed; !errors.Is(err, errBroken) {
			r.Errorf("%v", err)
		}
		(<-own).Release(r.Context())
		(<-other).Release(r.Context())
	})
}

func TestApply(t *testing.T) {
	inBubble(t, Limits{Max: 3, Idle: time.Hour, MaxAge: 2 * time.Hour}, func(r *rig) {
		apply := func(l Limits) {
			r.Helper()
			r.Apply(Settings{Limits: l})
		}
		r.warm(1)
		leased := r.lease(2)
		leased3 := r.lease(3)
		apply(Limits{Max: 1, Idle: time.Hour, MaxAge: 2 * time.Hour})
		r.want("2 leased, 3 leased")
		leased.Release(r.Context())
		r.want("3 leased") // 2 was over the limit, 3 is not
		waits := r.leaseLater(r.Context(), 4)
		r.want("3 leased")
		apply(Limits{Max: 2, Idle: time.Minute, MaxAge: 2 * time.Hour})
		l4 := <-waits
		l4.Release(r.Context())
		r.want("3 leased, 4 idle")
		time.Sleep(59 * time.Second)
		r.want("3 leased, 4 idle")
		time.Sleep(time.Second)
		r.want("3 leased")
		leased3.Release(r.Context())
		time.Sleep(time.Second)
		r.want("3 idle")
		apply(Limits{Max: 2, Idle: time.Hour, MaxAge: time.Minute})
		r.want("") // it is older, and is closed at once
	})
}
