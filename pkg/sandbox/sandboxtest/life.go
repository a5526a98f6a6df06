package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// testSandboxes tests the properties of whole sandboxes.
func testSandboxes(t *testing.T, open Open) {
	r := newRig(t, open)
	r.warm(t)
	t.Run("mounts", func(t *testing.T) { testMounts(t, r) })
	t.Run("mounts that have mounts in them", func(t *testing.T) { testMountsInMounts(t, r) })
	t.Run("failure to create", func(t *testing.T) { testFailedCreate(t, r) })
	t.Run("interrupted creation leaves nothing", func(t *testing.T) { testInterruptedCreate(t, r) })
	t.Run("limits", func(t *testing.T) { testLimits(t, r) })
	t.Run("attacks on limits", func(t *testing.T) { testAttacks(t, r) })
	t.Run("limits of the kernel by user", func(t *testing.T) { testKernelLimits(t, r) })
	t.Run("several at once", func(t *testing.T) { testSeveral(t, r) })
	t.Run("lost", func(t *testing.T) { testLost(t, r) })
	t.Run("close", func(t *testing.T) { testClose(t, r) })
	t.Run("close of the provider", func(t *testing.T) { testProviderClose(t, open) })
}

// testInterruptedCreate cancels a Create at many different moments.
func testInterruptedCreate(t *testing.T, r *rig) {
	began := time.Now()
	r.create(t, r.spec())
	whole := time.Since(began)
	before := r.take()
	const moments = 8
	for i := range moments {
		ctx, cancel := context.WithTimeout(t.Context(), whole*time.Duration(i)/moments)
		sb, err := r.provider.Create(ctx, r.spec())
		cancel()
		switch {
		case err == nil:
			noError(t, "Close", sb.Close(bounded(t)))
		case !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("Create: %v", err)
		}
		before.check(t)
	}
}

func testLimits(t *testing.T, r *rig) {
	t.Run("too many processes fail to fork and affect no other", func(t *testing.T) {
		sb := r.limited(t, sandbox.Limits{Processes: 50})
		got := run(t, sb, script("for i in $(seq 100); do sleep 100 & done; true"))
		if !strings.Contains(got.err, "fork") {
			t.Errorf("errors %q, exit %+v", got.err, got.exit)
		}
		n := strings.Count(run(t, sb, script(processes)).out, "(sleep)")
		if n < 30 || n > 50 {
			t.Errorf("there are %d processes", n)
		}
		endAll(t, sb)
	})
	t.Run("a sandbox out of memory is lost with that error", func(t *testing.T) {
		sb := r.limited(t, sandbox.Limits{MemoryBytes: 200 << 20})
		p := start(t, sb, script("head -c 2000000000 /dev/zero | tail -c 1900000000"))
		_, err := wait(t, p)
		isLost(t, "Wait", err, true)
		await(t, sb.Lost(), "the loss")
		_, err = sb.Start(bounded(t), script("true"))
		isLost(t, "Start", err, true)
		noError(t, "Close", sb.Close(bounded(t)))
		_, err = p.Wait()
		isLost(t, "Wait after Close", err, true)
	})
	t.Run("sandboxes have separate memory", func(t *testing.T) {
		victim, neighbour := r.limited(t, sandbox.Limits{MemoryBytes: 200 << 20}), r.create(t, r.spec())
		p := start(t, victim, script("head -c 400000000 /dev/zero >/tmp/big"))
		_, _ = wait(t, p)
		prints(t, neighbour, "echo fine", "fine\n")
	})
}

// isLost fails the test if err is not that of a lost sandbox, or does not say
// whether it ran out of memory.
func isLost(t *testing.T, what string, err error, outOfMemory bool) {
	t.Helper()
	if !errors.Is(err, sandbox.ErrLost) || errors.Is(err, sandbox.ErrOutOfMemory) != outOfMemory {
		t.Errorf("%s: %v", what, err)
	}
}

func testSeveral(t *testing.T, r *rig) {
	ids := make([]string, 6)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			sb, err := r.provider.Create(bounded(t), r.spec())
			if err != nil {
				t.Errorf("Create: %v", err)
				return
			}
			ids[i] = sb.ID()
			for round := range 3 {
				var out strings.Builder
				cmd := script(fmt.Sprintf("test -e /tmp/mine || echo %d >/tmp/mine; cat /tmp/mine; ls /tmp | wc -l", i))
				cmd.Stdout = &out
				p, err := sb.Start(bounded(t), cmd)
				if err != nil {
					t.Errorf("Start: %v", err)
					break
				}
				if _, err := p.Wait(); err != nil || out.String() != fmt.Sprintf("%d\n1\n", i) {
					t.Errorf("sandbox %d, round %d: %q, %v", i, round, out.String(), err)
				}
			}
			noError(t, "Close", sb.Close(bounded(t)))
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, id := range ids {
		if seen[id] || len(id) != len(ids[0]) {
			t.Errorf("ids are not unique or differ in length: %q", ids)
		}
		seen[id] = true
	}
}

// hostProcesses returns the processes of a sandbox on the host: those in a cgroup
// with its id in the name.
func hostProcesses(t *testing.T, id string) []int {
	t.Helper()
	var pids []int
	for pid, groups := range procFiles("cgroup") {
		if strings.Contains(groups, id) {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		t.Fatalf("no process is in a cgroup with the name %s", id)
	}
	return pids
}

// checkGivesWay fails the test if the kernel would kill the service before this
// process of a sandbox when the memory of the machine runs out.
func checkGivesWay(t *testing.T, pid int) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return // it has ended
	}
	if score, err2 := strconv.Atoi(strings.TrimSpace(string(raw))); err != nil || err2 != nil || score < 500 {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		t.Errorf("the OOM score of %q is adjusted by %q, want 500: %v", comm, raw, err)
	}
}

func testLost(t *testing.T, r *rig) {
	sb := r.create(t, r.spec())
	p, out := begin(t, sb, "echo ready; sleep 1000")
	select {
	case <-sb.Lost():
		t.Fatal("lost while it runs")
	default:
	}
	for _, pid := range hostProcesses(t, sb.ID()) {
		checkGivesWay(t, pid)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	await(t, sb.Lost(), "the loss")
	_, err := wait(t, p)
	isLost(t, "Wait", err, false)
	if out.String() != "ready\n" {
		t.Errorf("output before the loss: %q", out.String())
	}
	_, err = sb.Start(bounded(t), script("true"))
	isLost(t, "Start", err, false)
	isLost(t, "EndAll", sb.EndAll(bounded(t)), false)
	isLost(t, "Signal", p.Signal(syscall.SIGTERM), false)
}

func testClose(t *testing.T, r *rig) {
	t.Run("concurrently with everything else, more than once", func(t *testing.T) {
		sb := r.create(t, r.spec())
		before := start(t, sb, script("sleep 1000"))
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					p, err := sb.Start(bounded(t), script("sleep 0.01"))
					if err == nil {
						_, err = p.Wait()
					}
					if err != nil {
						if !errors.Is(err, sandbox.ErrLost) {
							t.Errorf("Start or Wait: %v", err)
						}
						return
					}
				}
			})
			all.Go(func() {
				if err := sb.EndAll(bounded(t)); err != nil && !errors.Is(err, sandbox.ErrLost) {
					t.Errorf("EndAll: %v", err)
				}
			})
		}
		for range 4 {
			all.Go(func() { noError(t, "Close", sb.Close(bounded(t))) })
		}
		all.Wait()
		await(t, sb.Lost(), "the loss")
		if _, err := wait(t, before); err != nil && !errors.Is(err, sandbox.ErrLost) {
			t.Errorf("Wait: %v", err)
		}
		noError(t, "Close again", sb.Close(bounded(t)))
	})
	t.Run("again, after a Close whose context had ended", func(t *testing.T) {
		sb := r.create(t, r.spec())
		_ = sb.Close(ended(t)) // may fail; the next one must not
		noError(t, "Close", sb.Close(bounded(t)))
	})
	t.Run("while a writer blocks", func(t *testing.T) {
		sb := r.create(t, r.spec())
		stuck := newGate(&strings.Builder{})
		cmd := script("exec yes")
		cmd.Stdout = stuck
		p := start(t, sb, cmd)
		await(t, stuck.reached, "output")
		noError(t, "Close", sb.Close(bounded(t)))
		close(stuck.open)
		_, err := wait(t, p)
		isLost(t, "Wait", err, false)
	})
}

func testProviderClose(t *testing.T, open Open) {
	r := newRig(t, open)
	if r.provider.Name() == "" {
		t.Error("the provider has no name")
	}
	// Some sandboxes run, and some are being created.
	ready := make([]sandbox.Sandbox, 2)
	for i := range ready {
		sb, err := r.provider.Create(bounded(t), r.spec())
		must(t, err)
		ready[i] = sb
	}
	p := start(t, ready[0], script("sleep 1000"))
	began := time.Now()
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			sb, err := r.provider.Create(bounded(t), r.spec())
			if err != nil {
				return
			}
			await(t, sb.Lost(), "the loss")
		})
	}
	for time.Since(began) < 30*time.Millisecond { // in the middle of their start
		time.Sleep(time.Millisecond)
	}
	for range 2 {
		all.Go(func() { noError(t, "Close", r.provider.Close(bounded(t))) })
	}
	all.Wait()
	for _, sb := range ready {
		await(t, sb.Lost(), "the loss")
		noError(t, "Close of a sandbox after the provider's", sb.Close(bounded(t)))
	}
	_, err := wait(t, p)
	isLost(t, "Wait", err, false)
	if sb, err := r.provider.Create(bounded(t), r.spec()); err == nil {
		t.Errorf("a closed provider created sandbox %s", sb.ID())
	}
}
