package generate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func user(n int) dreamcore.UserID {
	return dreamcore.UserID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
}

func enter(t *testing.T, a *admission, n int) *ticket {
	t.Helper()
	tk, err := a.enter(user(n))
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

// isIn tells whether a ticket may run, without waiting.
func isIn(tk *ticket) bool {
	tk.adm.mu.Lock()
	defer tk.adm.mu.Unlock()
	return tk.in
}

func TestThoseWhoWaitAreLetInInOrder(t *testing.T) {
	a := newAdmission(2, 10)
	tickets := make([]*ticket, 6)
	for i := range tickets {
		tickets[i] = enter(t, a, i)
	}
	in := func() (n []int) {
		for i, tk := range tickets {
			if isIn(tk) {
				n = append(n, i)
			}
		}
		return n
	}
	if got := in(); !slices.Equal(got, []int{0, 1}) {
		t.Fatalf("in at first: %v", got)
	}
	for _, step := range []struct {
		leaves int
		in     []int
	}{{1, []int{0, 1, 2}}, {4, []int{0, 1, 2}}, {0, []int{0, 1, 2, 3}}, {2, []int{0, 1, 2, 3, 5}}} {
		tickets[step.leaves].leave()
		if got := in(); !slices.Equal(got, step.in) {
			t.Errorf("after %d left: %v, want %v", step.leaves, got, step.in)
		}
	}
}

func TestOneGenerationOfAUserAndAQueueThatIsFull(t *testing.T) {
	a := newAdmission(1, 1)
	first := enter(t, a, 1)
	if _, err := a.enter(user(1)); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("the same user while it runs: %v", err)
	}
	second := enter(t, a, 2)
	if _, err := a.enter(user(2)); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("the same user while it waits: %v", err)
	}
	_, err := a.enter(user(3))
	if dreamcore.CodeOf(err) != dreamcore.CodeBusy || dreamcore.HintOf(err) == "" {
		t.Errorf("a full queue: %v", err)
	}
	// Who was refused has no place to give back and may come again.
	first.leave()
	first.leave() // more than once is no more than once
	if !isIn(second) {
		t.Fatal("the second was not let in")
	}
	third := enter(t, a, 3)
	if isIn(third) {
		t.Error("leaving twice made two places")
	}
	enterAgain, err := a.enter(user(1))
	if dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("%v, %v", enterAgain, err)
	}
}

func TestPlacesAreToldWhenTheyChange(t *testing.T) {
	a := newAdmission(1, 10)
	first, second, third, last := enter(t, a, 1), enter(t, a, 2), enter(t, a, 3), enter(t, a, 4)
	places := make(chan int, 10)
	done := make(chan error, 1)
	go func() { done <- third.wait(t.Context(), func(p int) { places <- p }) }()
	if p := <-places; p != 2 {
		t.Fatalf("place %d", p)
	}
	last.leave() // behind: nothing changes
	first.leave()
	if p := <-places; p != 1 {
		t.Errorf("place %d, want 1", p)
	}
	second.leave()
	if err := <-done; err != nil || len(places) != 0 {
		t.Errorf("%v, %d more places", err, len(places))
	}
}

func TestWhoLeavesTheQueueMakesRoomBehind(t *testing.T) {
	a := newAdmission(1, 2)
	first, second, third := enter(t, a, 1), enter(t, a, 2), enter(t, a, 3)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if err := second.wait(ctx, func(int) {}); !errors.Is(err, gone) {
		t.Errorf("wait ended with %v", err)
	}
	second.leave()
	enter(t, a, 4)
	first.leave()
	if !isIn(third) {
		t.Error("the place went to nobody")
	}
}

func TestResize(t *testing.T) {
	a := newAdmission(2, 10)
	tickets := make([]*ticket, 5)
	for i := range tickets {
		tickets[i] = enter(t, a, i)
	}
	a.resize(4, 0)
	if !isIn(tickets[2]) || !isIn(tickets[3]) || isIn(tickets[4]) {
		t.Error("more places did not let in the next two")
	}
	a.resize(1, 0)
	for i := range 3 {
		tickets[i].leave()
		if isIn(tickets[4]) {
			t.Fatalf("let in with %d running of 1", 3-i)
		}
	}
	if _, err := a.enter(user(9)); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("a queue of none: %v", err)
	}
	tickets[3].leave()
	if !isIn(tickets[4]) {
		t.Error("who waited before the queue shrank was forgotten")
	}
}

func TestNoPlaceIsLost(t *testing.T) {
	const limit, users, rounds = 3, 12, 200
	a := newAdmission(limit, users)
	var running, most atomic.Int64
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(u), 1))
			for range rounds {
				tk, err := a.enter(user(u))
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithCancel(t.Context())
				if rng.IntN(3) == 0 {
					cancel() // may be let in nevertheless
				}
				if tk.wait(ctx, func(int) {}) == nil {
					n := running.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					if rng.IntN(2) == 0 {
						a.resize(1+rng.IntN(limit), users)
					}
					running.Add(-1)
				}
				cancel()
				tk.leave()
			}
		})
	}
	wg.Wait()
	if most.Load() > limit {
		t.Errorf("%d ran at once, the limit was never over %d", most.Load(), limit)
	}
	if a.running != 0 || len(a.queue) != 0 || len(a.users) != 0 {
		t.Errorf("left: %d running, %d waiting, %d users", a.running, len(a.queue), len(a.users))
	}
	a.resize(limit, 0)
	for u := range limit {
		if !isIn(enter(t, a, u)) {
			t.Errorf("place %d of %d is lost", u+1, limit)
		}
	}
}
