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
		spec := r.spec()
		spec.Limits.CPUs = cpus
		sb := r.create(t, spec)
		before, began := cpuTime(t, sb.ID()), time.Now()
		sh(t, sb, "for i in 1 2 3; do timeout 2 sh -c 'while :; do :; done' & done; wait; true")
		used, took := cpuTime(t, sb.ID())-before, time.Since(began)
		// The quota is renewed ten times a second, and may be used at once.
		if most := time.Duration(cpus*1.2*float64(took)) + 200*time.Millisecond; used > most || used < 100*time.Millisecond {
			t.Errorf("used %v of CPU in %v, at most %v", used, took, most)
		}
	})
	t.Run("a fork bomb", func(t *testing.T) {
		spec := r.spec()
		spec.Limits.Processes = 60
		sb, neighbour := r.create(t, spec), r.create(t, r.spec())
		p := bomb(t, sb)
		for range 5 {
			if got := sh(t, neighbour, "echo fine"); got != "fine\n" {
				t.Errorf("the other sandbox prints %q", got)
			}
		}
		defuse(t, sb, p)
		if err := sb.Close(bounded(t)); err != nil { // before the checks at the end of the other sandbox
			t.Error(err)
		}
	})
	t.Run("an endless number of orphans", func(t *testing.T) {
		// All of them become children of PID 1, as fast as it reaps them.
		spec := r.spec()
		spec.Limits.Processes = 200
		sb := r.create(t, spec)
		p := bomb(t, sb)
		time.Sleep(3 * time.Second)
		defuse(t, sb, p)
	})
	t.Run("open files", func(t *testing.T) {
		spec := r.spec()
		spec.Limits.OpenFiles = 100
		sb := r.create(t, spec)
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
	if err := sb.EndAll(bounded(t)); err != nil {
		t.Fatalf("EndAll: %v", err)
	}
	_, _ = wait(t, p)
	if got := sh(t, sb, processes); got != "" {
		t.Errorf("left after EndAll: %s", got)
	}
}

// cpuTime returns the CPU time that the processes of a sandbox have used.
func cpuTime(t *testing.T, id string) time.Duration {
	t.Helper()
	var found time.Duration
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() || filepath.Base(path) != id {
			return nil
		}
		if raw, err := os.ReadFile(filepath.Join(path, "cpuacct.usage")); err == nil {
			n, _ := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
			found = time.Duration(n)
		}
		if raw, err := os.ReadFile(filepath.Join(path, "cpu.stat")); err == nil {
			var micro int64
			if _, err := fmt.Sscanf(string(raw), "usage_usec %d", &micro); err == nil {
				found = time.Duration(micro) * time.Microsecond
			}
		}
		return nil
	})
	if found == 0 {
		// cgroup v1 without cpuacct: add up the processes.
		for _, pid := range hostProcesses(t, id) {
			found += processTime(pid)
		}
	}
	return found
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
