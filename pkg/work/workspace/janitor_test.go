package workspace

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestIdleWorkspacesAreClosedAtTheirLimits(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.warm(1)
		time.Sleep(usual.Idle - time.Nanosecond)
		r.want("1 idle")
		time.Sleep(time.Nanosecond)
		r.want("")

		began := time.Now()
		for time.Since(began) < usual.MaxAge-time.Minute {
			r.warm(1)
			time.Sleep(time.Minute)
		}
		r.warm(1)
		time.Sleep(time.Until(began.Add(usual.MaxAge)) - time.Nanosecond)
		r.want("1 idle")
		time.Sleep(time.Nanosecond)
		r.want("")
		if n := len(r.boxes); n != 2 {
			r.Errorf("%d workspaces were created, want 2", n)
		}
	})
}

func TestALostIdleWorkspaceIsClosedAtOnce(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		b := r.warm(1)
		time.Sleep(time.Second) // between two looks of the janitor
		began := time.Now()
		b.lose()
		r.want("")
		if d := time.Since(began); d != 0 || !b.isClosed() {
			r.Errorf("closed %v after %v", b.isClosed(), d)
		}
	})
}

func TestAStaleIdleWorkspaceIsClosedSoon(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.warm(1).setStale()
		time.Sleep(10 * time.Second)
		r.want("")
	})
}

func TestShortMemoryClosesIdleWorkspacesOneByOne(t *testing.T) {
	limits := Limits{Max: 5, Idle: time.Hour, MaxAge: time.Hour, MinFree: 100}
	inBubble(t, limits, func(r *rig) {
		r.closingStep.set(func(context.Context, *box) error {
			time.Sleep(time.Second)
			free, _ := r.memory()
			r.setFree(min(120, free+30))
			return nil
		})
		for n := range 4 {
			r.warm(n)
			time.Sleep(time.Second)
		}
		l := r.lease(4)
		r.setFree(100)
		time.Sleep(time.Minute)
		r.want("0 idle, 1 idle, 2 idle, 3 idle, 4 leased")
		r.setFree(50) // two must be closed
		time.Sleep(pressureLatest)
		r.want("0 closing, 1 idle, 2 idle, 3 idle, 4 leased")
		time.Sleep(time.Second)
		r.want("1 closing, 2 idle, 3 idle, 4 leased")
		time.Sleep(time.Minute)
		r.want("2 idle, 3 idle, 4 leased")
		r.closingStep.set(nil) // closing one frees no memory
		r.setFree(0)
		time.Sleep(time.Minute)
		r.want("4 leased") // leased workspaces stay
		l.Release(r.Context())
		time.Sleep(time.Minute)
		r.want("")
	})
}

// pressureLatest is the time within which short memory must be noticed.
const pressureLatest = 3 * time.Second

func TestACreationMakesTheJanitorCheckTheMemory(t *testing.T) {
	limits := Limits{Max: 5, Idle: time.Hour, MaxAge: time.Hour, MinFree: 100}
	inBubble(t, limits, func(r *rig) {
		r.warm(1)
		time.Sleep(time.Minute)
		r.creatingStep.set(takes(time.Second))
		r.setFree(10)
		began := time.Now()
		l := r.leaseLater(r.Context(), 2)
		r.want("2 starting")
		if time.Since(began) != 0 {
			r.Error("it waited for the timer")
		}
		(<-l).Release(r.Context())
	})
}

func TestUnreadableMemoryIsLoggedOnceAndClosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, log := newMachine(5), &lines{}
		limits := Limits{Max: 5, Idle: time.Hour, MaxAge: time.Hour, MinFree: 100}
		p, err := newTestPool(m, limits, log.logger())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close(t.Context())
		if _, err := p.Prewarm(t.Context(), user(1)); err != nil {
			t.Fatal(err)
		}
		m.mu.Lock()
		m.blind, m.free = errBroken, 0
		m.mu.Unlock()
		time.Sleep(time.Minute)
		if len(p.List()) != 1 || log.count("free memory") != 1 {
			t.Errorf("%d workspaces, log:\n%s", len(p.List()), log)
		}
	})
}

func TestLogLevelsOfClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, log := newMachine(5), &lines{}
		p, err := newTestPool(m, usual, log.logger())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close(t.Context())
		for _, tt := range []struct {
			want string
			end  func(b *box)
		}{
			{"level=INFO msg=\"closing a sandbox\" sandbox=box-0 user=" + string(user(1)), func(*box) { time.Sleep(usual.Idle) }},
			{"level=WARN msg=\"closing a sandbox\" sandbox=box-1", (*box).lose},
			{"level=ERROR msg=\"close a sandbox; will retry\" sandbox=box-2", func(b *box) {
				m.closingStep.set(fails)
				b.lose()
				time.Sleep(time.Second / 2)
				m.closingStep.set(nil)
				time.Sleep(time.Second)
			}},
		} {
			l, err := p.Lease(t.Context(), user(1))
			if err != nil {
				t.Fatal(err)
			}
			l.Release(t.Context())
			tt.end(boxOf(l))
			synctest.Wait()
			if !strings.Contains(log.String(), tt.want) {
				t.Errorf("no %q in\n%s", tt.want, log)
			}
		}
	})
}

func TestStop(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.closingStep.set(takes(time.Second))
		stop := func(n int) {
			r.Helper()
			if err := r.Stop(r.Context(), Name(user(n))); err != nil {
				r.Fatal(err)
			}
		}
		for _, name := range []string{"", "user-", string(user(1)), Name(user(1)), "user-../x"} {
			if err := r.Stop(r.Context(), name); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || dreamcore.HintOf(err) == "" {
				r.Errorf("stop of %q: %v", name, err)
			}
		}
		idle := r.warm(1)
		stop(1)
		if !idle.isClosed() {
			r.Error("stop returned before it was closed")
		}
		r.want("")

		leased := r.lease(1)
		stop(1)
		if !errors.Is(context.Cause(leased.Context()), ErrStopped) || !boxOf(leased).isClosed() {
			r.Errorf("cause of its lease: %v, closed %v", context.Cause(leased.Context()), boxOf(leased).isClosed())
		}
		waits := r.leaseLater(r.Context(), 1)
		r.want("1 closing") // its holder may still work on the user's files
		leased.Release(r.Context())
		l := <-waits
		r.cleaningStep.set(takes(5 * time.Second))
		go l.Release(r.Context())
		synctest.Wait()
		stop(1) // during its cleaning
		r.want("")

		r.creatingStep.set(takes(time.Hour))
		failed := make(chan error, 1)
		go func() {
			_, err := r.Lease(r.Context(), user(1))
			failed <- err
		}()
		r.want("1 starting")
		stop(1)
		if err := <-failed; !errors.Is(err, ErrStopped) {
			r.Errorf("a lease whose workspace was stopped during its creation: %v", err)
		}
		r.creatingStep.set(func(context.Context, *box) error { time.Sleep(time.Minute); return nil }) // ignores its context
		go func() {
			_, err := r.Lease(r.Context(), user(1))
			failed <- err
		}()
		r.want("1 starting")
		stop(1)
		if err := <-failed; !errors.Is(err, ErrStopped) {
			r.Errorf("a lease whose workspace was stopped and created nevertheless: %v", err)
		}
		r.want("")
	})
}

func TestStopReturnsAtTheEndOfItsContext(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		r.warm(1)
		r.closingStep.set(takes(time.Second))
		ctx, cancel := context.WithTimeoutCause(r.Context(), time.Millisecond, errBroken)
		defer cancel()
		if err := r.Stop(ctx, Name(user(1))); !errors.Is(err, errBroken) {
			r.Errorf("%v", err)
		}
	})
}

func TestCloseWaitsForLeasesAndRefusesNewOnes(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		leased := r.lease(1)
		idle := r.warm(2)
		waits := make(chan error, 1)
		go func() {
			_, err := r.Lease(r.Context(), user(1))
			waits <- err
		}()
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- r.Close(context.Background()) }()
		if err := <-waits; !errors.Is(err, ErrClosed) || dreamcore.CodeOf(err) != dreamcore.CodeBusy {
			r.Errorf("the waiting caller got: %v", err)
		}
		r.want("1 leased")
		if !idle.isClosed() || leased.Context().Err() != nil || len(done) != 0 {
			r.Error("Close did not end the idle one, or did not wait for the leased one")
		}
		_, err := r.Prewarm(r.Context(), user(3))
		if _, err2 := r.Lease(r.Context(), user(2)); !errors.Is(err, ErrClosed) || !errors.Is(err2, ErrClosed) {
			r.Errorf("after Close: %v, %v", err, err2)
		}
		leased.Release(r.Context())
		if err := <-done; err != nil || !boxOf(leased).isClosed() || boxOf(leased).cleans != 0 {
			r.Errorf("%v, closed %v, cleaned %d times", err, boxOf(leased).isClosed(), boxOf(leased).cleans)
		}
		if err := r.Close(r.Context()); err != nil {
			r.Error(err)
		}
	})
}

func TestCloseEndsLeasesAtTheEndOfItsContext(t *testing.T) {
	inBubble(t, usual, func(r *rig) {
		leased := r.lease(1)
		r.creatingStep.set(takes(time.Hour))
		starting := r.leaseLater(r.Context(), 2)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		began := time.Now()
		if err := r.Close(ctx); err != nil {
			r.Error(err)
		}
		if time.Since(began) != time.Minute || !boxOf(leased).isClosed() {
			r.Errorf("after %v, closed %v", time.Since(began), boxOf(leased).isClosed())
		}
		if !errors.Is(context.Cause(leased.Context()), ErrClosed) {
			r.Errorf("the cause is %v", context.Cause(leased.Context()))
		}
		if l := <-starting; l != nil {
			r.Error("a lease began after Close")
		}
		leased.Release(r.Context())
		r.want("")
	})
}

func TestCloseReportsWorkspacesThatCannotBeClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(2)
		p, err := newTestPool(m, usual, nil)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			if _, err := p.Prewarm(t.Context(), user(n)); err != nil {
				t.Fatal(err)
			}
		}
		m.closingStep.set(fails)
		m.boxes[0].lose()                      // many attempts have failed
		time.Sleep(time.Hour + 10*time.Second) // the next attempt is far away
		began := time.Now()
		for range 2 {
			err := p.Close(t.Context())
			if !errors.Is(err, errBroken) || dreamcore.HintOf(err) == "" || !strings.Contains(err.Error(), "box-1") {
				t.Errorf("%v", err)
			}
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %v to give up", d)
		}
	})
}
