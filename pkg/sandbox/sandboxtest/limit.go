package sandboxtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// testAttacks runs programs that take all that they can get of a bounded resource.
func testAttacks(t *testing.T, r *rig) {
	t.Run("CPU", func(t *testing.T) {
		const cpus = 0.5
		sb := r.limited(t, sandbox.Limits{CPUs: cpus})
		before, began := cpuTime(t, sb.ID()), time.Now()
		sh(t, sb, "for i in 1 2 3; do timeout 2 sh -c 'while :; do :; done' & done; wait; true")
		used, took := cpuTime(t, sb.ID())-before, time.Since(began)
		// The quota is renewed ten times a second, and may be used at once.
		if most := time.Duration(cpus*1.2*float64(took)) + 200*time.Millisecond; used > most || used < 100*time.Millisecond {
			t.Errorf("used %v of CPU in %v, at most %v", used, took, most)
		}
	})
	t.Run("a fork bomb", func(t *testing.T) {
		sb, neighbour := r.limited(t, sandbox.Limits{Processes: 60}), r.create(t, r.spec())
		p := bomb(t, sb)
		for range 5 {
			prints(t, neighbour, "echo fine", "fine\n")
		}
		defuse(t, sb, p)
		noError(t, "Close", sb.Close(bounded(t))) // before the checks at the end of the other sandbox
	})
	t.Run("an endless number of orphans", func(t *testing.T) {
		// All of them become children of PID 1, as fast as it reaps them.
		sb := r.limited(t, sandbox.Limits{Processes: 200})
		p := bomb(t, sb)
		time.Sleep(3 * time.Second)
		defuse(t, sb, p)
	})
	t.Run("open files", func(t *testing.T) {
		sb := r.limited(t, sandbox.Limits{OpenFiles: 100})
		got := sh(t, sb, `exec perl -e 'while (open(my $f, "<", "/dev/null")) { push @f, $f } print scalar(@f), " $!"'`)
		n, why, _ := strings.Cut(got, " ")
		if count, err := strconv.Atoi(n); err != nil || count < 50 || count > 100 || why != "Too many open files" {
			t.Errorf("opened %q", got)
		}
	})
	t.Run("a file system in memory", func(t *testing.T) {
		sb := r.create(t, r.spec(sandbox.Mount{Target: "/tmp", Writable: true, Size: 8 << 20, Mode: 0o1777}))
		got := run(t, sb, script("head -c 16777216 /dev/zero >/tmp/big; stat -c %s /tmp/big"))
		if size, err := strconv.Atoi(strings.TrimSpace(got.out)); err != nil || size > 8<<20 || !strings.Contains(got.err, "No space left") {
			t.Errorf("output %q, errors %q", got.out, got.err)
		}
	})
}

// bomb starts a program that forks without end.
func bomb(t *testing.T, sb sandbox.Sandbox) sandbox.Process {
	t.Helper()
	cmd := script(`bomb() { bomb | bomb & }; bomb`)
	cmd.Args[0] = "/bin/bash"
	return start(t, sb, cmd)
}

// defuse ends a bomb. The user inside may be unable to fork another process, but
// the host can end it.
func defuse(t *testing.T, sb sandbox.Sandbox, p sandbox.Process) {
	t.Helper()
	endAll(t, sb)
	_, _ = wait(t, p)
}

// cpuTime returns the CPU time that the processes of a sandbox have used,
// including those that have ended if a cgroup counts it.
func cpuTime(t *testing.T, id string) (sum time.Duration) {
	t.Helper()
	for _, dir := range cgroups(func(path string) bool { return filepath.Base(path) == id }) {
		if used := groupTime(dir); used > 0 {
			return used
		}
	}
	for _, pid := range hostProcesses(t, id) {
		sum += processTime(pid)
	}
	return sum
}

// groupTime returns the CPU time that a cgroup counts, or 0 if it counts none.
func groupTime(dir string) time.Duration {
	if raw, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage")); err == nil {
		n, _ := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		return time.Duration(n)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	var micro int64
	if err == nil {
		_, err = fmt.Sscanf(string(raw), "usage_usec %d", &micro)
	}
	if err != nil {
		return 0 // under cgroup v1, of another hierarchy
	}
	return time.Duration(micro) * time.Microsecond
}

// processTime returns the CPU time of a process and of the children that it has
// waited for. The kernel counts in hundredths of a second.
func processTime(pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	rest := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(rest) < 15 {
		return 0
	}
	var sum int
	for _, field := range rest[11:15] {
		n, _ := strconv.Atoi(field)
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}
