package admission

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func enter(t *testing.T, l *Limiter, user dreamcore.UserID) func() {
	t.Helper()
	leave, err := l.Enter(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

// TestLimitsPerUserAndHost runs many operations of few users.
func TestLimitsPerUserAndHost(t *testing.T) {
	l := New(Limits{Running: 3, Waiting: 1000, Patience: time.Minute})
	var all sync.WaitGroup
	var running atomic.Int64
	var of [5]atomic.Int64
	for i := range 200 {
		all.Go(func() {
			user := i % len(of)
			leave, err := l.Enter(t.Context(), dreamcore.UserID(fmt.Sprint(user)))
			if err != nil {
				t.Error(err)
				return
			}
			if a, b := running.Add(1), of[user].Add(1); a > 3 || b > 1 {
				t.Errorf("%d at once, %d of one user", a, b)
			}
			running.Add(-1)
			of[user].Add(-1)
			leave()
		})
	}
	all.Wait()
	if len(l.waiting) != 0 || len(l.running) != 0 {
		t.Errorf("residue: %v %v", l.waiting, l.running)
	}
}

// TestUsersTakeTurns checks that many operations of a user do not delay another user.
func TestUsersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Limits{Running: 1, Waiting: 10})
		leave := enter(t, l, "greedy")
		order := make(chan string, 10)
		for i, user := range []dreamcore.UserID{"greedy", "greedy", "greedy", "modest", "greedy"} {
			go func() {
				done := enter(t, l, user)
				order <- string(user)
				done()
			}()
			synctest.Wait() // so that they wait in this order
			_ = i
		}
		leave()
		var got []string
		for range 5 {
			got = append(got, <-order)
		}
		if got[0] != "greedy" && got[0] != "modest" || got[0] != "modest" && got[1] != "modest" {
			t.Errorf("in the order %q", got)
		}
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Limits{Running: 1, Waiting: 2, Patience: 10 * time.Second})
		leave := enter(t, l, "a")
		began := time.Now()
		results := make(chan error, 3)
		for range 3 {
			go func() {
				done, err := l.Enter(t.Context(), "a")
				if err == nil {
					done()
				}
				results <- err
			}()
			synctest.Wait()
		}
		if err := <-results; dreamcore.CodeOf(err) != dreamcore.CodeBusy || time.Since(began) != 0 {
			t.Error("a third call waits:", err)
		}
		for range 2 {
			if err := <-results; dreamcore.CodeOf(err) != dreamcore.CodeBusy || time.Since(began) != 10*time.Second {
				t.Error(err, time.Since(began))
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Enter(gone, "b"); !errors.Is(err, context.Canceled) || dreamcore.CodeOf(err) == dreamcore.CodeBusy {
			t.Error(err)
		}
		saved := make(chan struct{})
		go func() { // Wait has no time limit
			done, err := l.Wait(t.Context(), "a")
			if err != nil {
				t.Error(err)
			}
			done()
			close(saved)
		}()
		time.Sleep(time.Hour)
		leave()
		<-saved
		if len(l.waiting) != 0 || len(l.running) != 0 {
			t.Errorf("residue: %v %v", l.waiting, l.running)
		}
	})
}

func TestNilLimiterAdmitsAll(t *testing.T) {
	var l *Limiter
	enter(t, l, "a")
	enter(t, l, "a")()
	if _, err := l.Wait(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}
