package job

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

func queueOf(running, waiting, perUser int) *admission {
	return newAdmission(admissionLimits{running: running, waiting: waiting, perUser: perUser})
}

func enter(t *testing.T, a *admission, n int) *slot {
	t.Helper()
	tk, err := a.enter(user(n))
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

// isIn reports whether a slot may run, without waiting.
func isIn(tk *slot) bool {
	tk.adm.mu.Lock()
	defer tk.adm.mu.Unlock()
	return tk.running
}

func positionOf(tk *slot) int {
	tk.adm.mu.Lock()
	defer tk.adm.mu.Unlock()
	return tk.position
}

func TestWaitingUsersAreAdmittedInOrder(t *testing.T) {
	a := queueOf(2, 10, 0)
	slots := make([]*slot, 6)
	for i := range slots {
		slots[i] = enter(t, a, i)
	}
	in := func() (n []int) {
		for i, tk := range slots {
			if isIn(tk) {
				n = append(n, i)
			}
		}
		return n
	}
	if got := in(); !slices.Equal(got, []int{0, 1}) {
		t.Fatalf("running at first: %v", got)
	}
	for _, step := range []struct {
		leaves int
		in     []int
	}{{1, []int{0, 1, 2}}, {4, []int{0, 1, 2}}, {0, []int{0, 1, 2, 3}}, {2, []int{0, 1, 2, 3, 5}}} {
		slots[step.leaves].leave()
		if got := in(); !slices.Equal(got, step.in) {
			t.Errorf("after %d left: %v, want %v", step.leaves, got, step.in)
		}
	}
}

func TestLimitsOfTheQueue(t *testing.T) {
	refused := func(a *admission, n int) {
		t.Helper()
		tk, err := a.enter(user(n))
		if dreamcore.CodeOf(err) != dreamcore.CodeBusy || dreamcore.HintOf(err) == "" {
			t.Errorf("user %d: %v, %v", n, tk, err)
		}
	}
	a := queueOf(1, 2, 1)
	first := enter(t, a, 1)
	again := enter(t, a, 1)
	refused(a, 1) // over the limit of the user
	second := enter(t, a, 2)
	refused(a, 3) // over the limit of the queue
	first.leave()
	first.leave() // a second call does nothing
	if !isIn(again) || isIn(second) {
		t.Fatal("the slot did not go to exactly the next one")
	}
	third := enter(t, a, 3)
	if isIn(third) {
		t.Error("leaving twice made two slots")
	}
	refused(a, 1)
	// With a limit of 0, a user has one generation at a time, even while slots are free.
	b := queueOf(5, 5, 0)
	enter(t, b, 1)
	refused(b, 1)
}

func TestPositionsAreReportedWhenTheyChange(t *testing.T) {
	a := queueOf(1, 10, 0)
	first, second, third, last := enter(t, a, 1), enter(t, a, 2), enter(t, a, 3), enter(t, a, 4)
	positions := make(chan int, 10)
	done := make(chan error, 1)
	go func() { done <- third.wait(t.Context(), func(p int) { positions <- p }) }()
	if p := <-positions; p != 2 {
		t.Fatalf("position %d", p)
	}
	last.leave() // behind it: its position stays
	first.leave()
	if p := <-positions; p != 1 {
		t.Errorf("position %d, want 1", p)
	}
	second.leave()
	if err := <-done; err != nil || len(positions) != 0 {
		t.Errorf("%v, %d more positions", err, len(positions))
	}
}

func TestUsersTakeTurns(t *testing.T) {
	a := queueOf(1, 10, 5)
	running := enter(t, a, 1)
	mine := []*slot{enter(t, a, 1), enter(t, a, 1), enter(t, a, 1)}
	b, c := enter(t, a, 2), enter(t, a, 3)
	if got := []int{positionOf(mine[0]), positionOf(b), positionOf(c), positionOf(mine[1]), positionOf(mine[2])}; !slices.Equal(got, []int{1, 2, 3, 4, 5}) {
		t.Errorf("positions %v", got)
	}
	for _, next := range []*slot{mine[0], b, c, mine[1], mine[2]} {
		running.leave()
		if !isIn(next) {
			t.Fatal("users do not take turns")
		}
		running = next
	}
}

func TestAUserWithARunningGenerationIsSkipped(t *testing.T) {
	a := queueOf(2, 10, 5)
	running := enter(t, a, 1)
	mine, other := enter(t, a, 1), enter(t, a, 2)
	if isIn(mine) || !isIn(other) {
		t.Fatal("the free slot went to a user with a running generation")
	}
	third := enter(t, a, 3)
	other.leave()
	if isIn(mine) || !isIn(third) {
		t.Fatal("a user who cannot run yet blocks the others")
	}
	running.leave()
	if !isIn(mine) {
		t.Error("the user lost the turn")
	}
}

func TestLeavingTheQueueMovesTheOthersUp(t *testing.T) {
	a := queueOf(1, 2, 0)
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
		t.Error("the slot was lost")
	}
}

func TestWithdrawnSlotsNeverRun(t *testing.T) {
	a := queueOf(1, 2, 1)
	running, waiting := enter(t, a, 1), enter(t, a, 2)
	waiting.withdraw()
	running.withdraw() // it runs and keeps its slot
	if !isIn(running) || isIn(enter(t, a, 3)) {
		t.Error("a running generation lost its slot")
	}
	running.leave()
	if isIn(waiting) || waiting.isWaiting() {
		t.Error("a withdrawn slot was admitted")
	}
	// A generation that is admitted after its context has ended does not run either.
	ctx, cancel := context.WithCancel(t.Context())
	in := enter(t, a, 4)
	cancel()
	if err := in.wait(ctx, func(int) {}); err == nil {
		t.Error("a generation that was cancelled may run")
	}
}

func TestChangedLimitsApplyAtOnce(t *testing.T) {
	a := queueOf(2, 10, 0)
	slots := make([]*slot, 5)
	for i := range slots {
		slots[i] = enter(t, a, i)
	}
	a.resize(admissionLimits{running: 4})
	if !isIn(slots[2]) || !isIn(slots[3]) || isIn(slots[4]) {
		t.Error("more slots did not admit the next two")
	}
	a.resize(admissionLimits{running: 1})
	for i := range 3 {
		slots[i].leave()
		if isIn(slots[4]) {
			t.Fatalf("admitted with %d running of 1", 3-i)
		}
	}
	if _, err := a.enter(user(9)); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("a queue of length 0: %v", err)
	}
	slots[3].leave()
	if !isIn(slots[4]) {
		t.Error("a slot that waited before the queue shrank was forgotten")
	}
}

// queueModel performs random steps on an admission and checks its rules.
type queueModel struct {
	t     *testing.T
	a     *admission
	slots []*slot
	seen  map[*slot]bool // admitted
	// overtaken counts, for each waiting slot that is the first one of a user
	// without a running generation, the admissions of every other user since.
	overtaken map[*slot]map[dreamcore.UserID]int
}

func TestAdmissionKeepsItsRulesInRandomSteps(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		m := &queueModel{t: t, a: queueOf(1+rng.IntN(4), rng.IntN(20), rng.IntN(4)), seen: map[*slot]bool{}, overtaken: map[*slot]map[dreamcore.UserID]int{}}
		for range 400 {
			switch n := rng.IntN(100); {
			case n < 55:
				if tk, err := m.a.enter(user(rng.IntN(8))); err == nil {
					m.slots = append(m.slots, tk)
				}
			case n < 97 && len(m.slots) > 0:
				i := rng.IntN(len(m.slots))
				if n%2 == 0 {
					m.slots[i].withdraw()
				} else {
					m.slots[i].leave()
				}
			case n >= 97:
				m.a.resize(admissionLimits{1 + rng.IntN(4), rng.IntN(20), rng.IntN(4)})
			}
			m.check()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		for _, tk := range m.slots {
			tk.leave()
		}
		if a := m.a; a.running != 0 || a.waiting != 0 || len(a.line) != 0 || len(a.users) != 0 {
			t.Errorf("left: %d running, %d waiting, %d in line, %d users", a.running, a.waiting, len(a.line), len(a.users))
		}
	}
}

func (m *queueModel) check() {
	m.slots = slices.DeleteFunc(m.slots, func(tk *slot) bool { return tk.left })
	running, first := map[dreamcore.UserID]int{}, map[dreamcore.UserID]*slot{}
	var admitted []*slot
	var positions []int
	total := 0
	for _, tk := range m.slots { // in the order of their arrival
		switch {
		case tk.running:
			total++
			running[tk.user]++
			if first[tk.user] != nil {
				m.t.Error("a user's generations do not run in order")
			}
			if !m.seen[tk] {
				m.seen[tk] = true
				admitted = append(admitted, tk)
			}
		default:
			positions = append(positions, tk.position)
			if first[tk.user] == nil {
				first[tk.user] = tk
			}
		}
	}
	for u, n := range running {
		if n > 1 {
			m.t.Errorf("%d generations of user %s run", n, u)
		}
	}
	slices.Sort(positions)
	for i, p := range positions {
		if p != i+1 {
			m.t.Errorf("positions %v", positions)
			break
		}
	}
	if total != m.a.running || len(positions) != m.a.waiting {
		m.t.Errorf("%d run and %d wait, counted as %d and %d", total, len(positions), m.a.running, m.a.waiting)
	}
	m.checkTurns(first, running, admitted, total)
}

func (m *queueModel) checkTurns(first map[dreamcore.UserID]*slot, running map[dreamcore.UserID]int, admitted []*slot, total int) {
	eligible := map[*slot]map[dreamcore.UserID]int{}
	for u, tk := range first {
		if running[u] > 0 {
			continue
		}
		if total < m.a.limits.running {
			m.t.Error("a slot is free while a user waits")
		}
		counts := m.overtaken[tk]
		if counts == nil {
			counts = map[dreamcore.UserID]int{}
		} else {
			for _, other := range admitted {
				if counts[other.user]++; counts[other.user] > 1 {
					m.t.Error("a user was admitted twice before another one that could run")
				}
			}
		}
		eligible[tk] = counts
	}
	m.overtaken = eligible
}

func TestNoSlotIsLost(t *testing.T) {
	const limit, users, rounds = 3, 12, 200
	all := admissionLimits{running: limit, waiting: 2 * users, perUser: 1}
	a := newAdmission(all)
	var running, most atomic.Int64
	var wg sync.WaitGroup
	for u := range 2 * users {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(u), 1))
			for range rounds {
				tk, err := a.enter(user(u / 2)) // two at a time of each user
				if err != nil {
					t.Error(err)
					return
				}
				ctx, cancel := context.WithCancel(t.Context())
				switch rng.IntN(6) {
				case 0:
					cancel()
				case 1:
					go func() { cancel(); tk.withdraw() }()
				}
				if tk.wait(ctx, func(int) {}) == nil {
					n := running.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					if rng.IntN(2) == 0 {
						l := all
						l.running = 1 + rng.IntN(limit)
						a.resize(l)
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
	if a.running != 0 || a.waiting != 0 || len(a.line) != 0 || len(a.users) != 0 {
		t.Errorf("left: %d running, %d waiting, %d in line, %d users", a.running, a.waiting, len(a.line), len(a.users))
	}
	a.resize(admissionLimits{running: limit})
	for u := range limit {
		if !isIn(enter(t, a, u)) {
			t.Errorf("slot %d of %d is lost", u+1, limit)
		}
	}
}
