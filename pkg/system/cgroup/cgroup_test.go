package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

const (
	v1Memory = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	v1Pids   = "39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n"
	v1CPU    = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
	v1Named  = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
	v2       = "28 24 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	v2Hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	disk     = "24 1 254:0 / / rw,relatime - ext4 /dev/root rw\n"
)

func TestControllersAreDetectedInEveryVersion(t *testing.T) {
	tests := map[string]struct {
		mountinfo string
		dirs      []string // of the group "a/b"
		unified   bool
		err       string
	}{
		"v1":                  {disk + v1Memory + v1Pids + v1CPU + v1Named, []string{"/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/pids/a/b", "/sys/fs/cgroup/cpu,cpuacct/a/b"}, false, ""},
		"hybrid":              {v2Hybrid + v1Named + v1CPU + v1Pids + v1Memory, []string{"/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/pids/a/b", "/sys/fs/cgroup/cpu,cpuacct/a/b"}, false, ""},
		"v2":                  {disk + v2, []string{"/sys/fs/cgroup/a/b"}, true, ""},
		"v2 twice":            {v2 + strings.Replace(v2, "/sys/fs/cgroup ", "/chroot/sys/fs/cgroup ", 1), []string{"/sys/fs/cgroup/a/b"}, true, ""},
		"v1 twice":            {v1Memory + v1Pids + v1CPU + strings.Replace(v1Memory, "/sys/fs", "/chroot/sys/fs", 1), []string{"/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/pids/a/b", "/sys/fs/cgroup/cpu,cpuacct/a/b"}, false, ""},
		"one mount for all":   {"35 31 0:32 / /cg rw - cgroup cgroup rw,memory,pids,cpu\n", []string{"/cg/a/b"}, false, ""},
		"v1 without memory":   {v1Pids + v1CPU, nil, false, "memory"},
		"v1 without pids":     {v1Memory + v1CPU + v2Hybrid, nil, false, "pids"},
		"v1 without cpu":      {v1Memory + v1Pids, nil, false, "cpu"},
		"none":                {disk, nil, false, "memory"},
		"nothing":             {"", nil, false, "memory"},
		"lines that are junk": {"\n - \n- cgroup2\na b c d e - cgroup2\n" + v2, []string{"/sys/fs/cgroup/a/b"}, true, ""},
		"an overlong line":    {strings.Repeat("x", 1<<20) + "\n" + v2, nil, false, "too long"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h, err := detect([]byte(test.mountinfo))
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("detect: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			g := h.Open("a/b")
			if diff := cmp.Diff(test.dirs, g.Dirs()); diff != "" || g.unified != test.unified {
				t.Errorf("unified %v, directories:\n%s", g.unified, diff)
			}
		})
	}
}

func TestUnifiedHierarchyWithoutControllersIsRefused(t *testing.T) {
	h := &Hierarchy{unified: "/sys/fs/cgroup"}
	for given, want := range map[string]string{
		"cpuset cpu io memory pids\n": "",
		"cpu io pids\n":               "memory",
		"cpu memory\n":                "pids",
		"memory pids\n":               "cpu",
		"":                            "memory",
	} {
		err := h.check([]byte(given))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), strconv.Quote(want)) {
			t.Errorf("%q: %v", given, err)
		}
	}
}

func TestSettings(t *testing.T) {
	l := Limits{MemoryBytes: 1 << 30, CPUs: 1.5, Processes: 100}
	text := func(g *Group, l Limits) string {
		var b strings.Builder
		for _, s := range g.settings(l) {
			fmt.Fprintf(&b, "%s=%s\n", s.file, s.value)
		}
		return b.String()
	}
	const one = "memory.limit_in_bytes=1073741824\nmemory.memsw.limit_in_bytes=1073741824\npids.max=100\ncpu.cfs_period_us=100000\ncpu.cfs_quota_us=150000\n"
	const two = "memory.max=1073741824\nmemory.swap.max=0\nmemory.oom.group=1\npids.max=100\ncpu.max=150000 100000\n"
	if got := text(&Group{}, l); got != one {
		t.Errorf("v1:\n%s", got)
	}
	if got := text(&Group{unified: true}, l); got != two {
		t.Errorf("v2:\n%s", got)
	}
	if got := text(&Group{}, Limits{}) + text(&Group{unified: true}, Limits{}); got != "" {
		t.Errorf("no limits:\n%s", got)
	}
}

func TestOutOfMemoryInBothVersions(t *testing.T) {
	for text, want := range map[string]bool{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n": false,
		"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n": true,
		"low 0\noom 3\noom_kill 0\noom_group_kill 0\n":  false, // reclaimed in time
		"low 0\noom 3\noom_kill 1\noom_group_kill 1\n":  true,
		"": false,
	} {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := (&Group{dirs: []string{dir}}).OutOfMemory(); got != want {
				t.Errorf("%s %q: %v", file, text, got)
			}
		}
	}
}

// real returns the host's hierarchy and a path in it for this test.
func real(t *testing.T) (*Hierarchy, string) {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root, for cgroups")
	h, err := Detect()
	sandboxtest.Need(t, err == nil, fmt.Sprintf("cgroups (%v)", err))
	base := fmt.Sprintf("dreamcore-test-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	t.Cleanup(func() {
		if g := h.Open(base); g.Exists() {
			t.Errorf("left: %v", g.Dirs())
		}
	})
	return h, base
}

// sleeper starts a process in a group. It is killed at the end of the test.
func sleeper(t *testing.T, g *Group) *exec.Cmd {
	t.Helper()
	script := `for d; do echo 0 >$d/cgroup.procs || exit 1; done; echo in; exec sleep 1000`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, g.Dirs()...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 8)); n == 0 {
		t.Fatal(err)
	}
	return cmd
}

func TestAllSandboxesYieldOnEachProcessor(t *testing.T) {
	for processors, want := range map[int][2]int{1: {204, 20}, 2: {408, 40}, 4: {816, 80}, 5: {1020, 100}, 64: {1024, 100}} {
		if v1, v2 := yielding(1024, processors), yielding(100, processors); v1 != want[0] || v2 != want[1] {
			t.Errorf("%d processors: %d and %d, want %v", processors, v1, v2, want)
		}
	}
}

func TestCreateAndRemove(t *testing.T) {
	h, base := real(t)
	ctx := t.Context()
	g, err := h.Create(base+"/sub/one", Limits{MemoryBytes: 64 << 20, CPUs: 0.5, Processes: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range g.settings(Limits{MemoryBytes: 64 << 20, CPUs: 0.5, Processes: 10}) {
		if got, ok := readSetting(g, s.file); got != s.value && (ok || !s.optional) {
			t.Errorf("%s is %q, want %q", s.file, got, s.value)
		}
	}
	for file, normal := range map[string]int{"cpu.shares": 1024, "cpu.weight": 100} {
		low := strconv.Itoa(yielding(normal, runtime.NumCPU()))
		if got, ok := readSetting(h.Open(base), file); ok && got != low {
			t.Errorf("the group of all sandboxes has %s %q, not %q", file, got, low)
		}
		if got, ok := readSetting(g, file); ok && got != strconv.Itoa(normal) {
			t.Errorf("a sandbox has %s %q: its share among sandboxes is not the default", file, got)
		}
	}
	if got, ok := readSetting(h.Open(base), "pids.max"); !ok || got != strconv.Itoa(SandboxProcesses(h.Open(base).processLimit("/proc"))) {
		t.Errorf("the group of all sandboxes may have %q processes", got)
	}
	cmd := sleeper(t, g)
	if pids, err := g.Processes(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("processes %v, %v", pids, err)
	}
	if names, err := h.Open(base + "/sub").Children(); err != nil || !slices.Equal(names, []string{"one"}) {
		t.Errorf("children %v, %v", names, err)
	}
	h.Open(base).RemoveIfEmpty()
	if !g.Exists() || g.OutOfMemory() {
		t.Error("a group with a subgroup was removed, or is out of memory")
	}
	killed, err := g.Remove(ctx)
	if err != nil || !slices.Equal(killed, []int{cmd.Process.Pid}) {
		t.Errorf("Remove: killed %v, %v", killed, err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v", err)
	}
	if g.Exists() {
		t.Error("the group is still there")
	}
	if killed, err := g.Remove(ctx); err != nil || len(killed) > 0 {
		t.Errorf("Remove again: %v, %v", killed, err)
	}
	for _, path := range []string{base + "/sub", base} {
		if _, err := h.Open(path).Remove(ctx); err != nil {
			t.Error(err)
		}
	}
	if pids, err := g.Processes(); err != nil || len(pids) > 0 {
		t.Errorf("processes of a removed group: %v, %v", pids, err)
	}
	if names, err := g.Children(); err != nil || len(names) > 0 {
		t.Errorf("children of a removed group: %v, %v", names, err)
	}
}

func readSetting(g *Group, file string) (string, bool) {
	for _, dir := range g.Dirs() {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			return strings.TrimSpace(string(b)), true
		}
	}
	return "", false
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	h, base := real(t)
	if g, err := h.Create(base, Limits{CPUs: 1e-9}); err == nil { // below the kernel's minimum
		t.Errorf("created %v", g.Dirs())
	}
	if h.Open(base).Exists() {
		t.Error("the group exists")
	}
}

func TestRemoveKillsAGroupThatForks(t *testing.T) {
	h, base := real(t)
	g, err := h.Create(base, Limits{Processes: 200})
	if err != nil {
		t.Fatal(err)
	}
	script := `for d; do echo 0 >$d/cgroup.procs || exit 1; done; echo in; while :; do sleep 1000 & done 2>/dev/null`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, g.Dirs()...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 8))
	killed, err := g.Remove(t.Context())
	if err != nil || len(killed) == 0 {
		t.Errorf("Remove: %v, %v", killed, err)
	}
	_ = cmd.Wait()
}

func TestRemoveStopsWithItsContext(t *testing.T) {
	h, base := real(t)
	g, err := h.Create(base+"/below", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	// A subgroup prevents the kernel from removing the group.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := h.Open(base).Remove(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Remove: %v", err)
	}
	for _, g := range []*Group{g, h.Open(base)} {
		if _, err := g.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestOutOfMemoryAfterAKill(t *testing.T) {
	h, base := real(t)
	g, err := h.Create(base, Limits{MemoryBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	script := `for d; do echo 0 >$d/cgroup.procs || exit 1; done; head -c 100000000 /dev/zero | tail -c 90000000`
	_ = exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, g.Dirs()...)...).Run()
	if !g.OutOfMemory() {
		t.Error("OutOfMemory is false after a kill")
	}
	if _, err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestJoinDirs(t *testing.T) {
	if err := JoinDirs([]string{filepath.Join(t.TempDir(), "gone")}); err == nil {
		t.Error("joined a missing group")
	}
	// The calling process cannot leave a group without joining another one, so a
	// plain directory stands for it.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := JoinDirs([]string{dir}); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); string(b) != "0" {
		t.Errorf("written: %q", b)
	}
}

// TestInstancesShareTheirParent creates groups in one parent concurrently and
// removes the parent whenever it is empty, as instances of the service do.
func TestInstancesShareTheirParent(t *testing.T) {
	h, base := real(t)
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for range 40 {
				instance := fmt.Sprintf("%s/i-%d", base, i)
				g, err := h.Create(instance+"/s-1", Limits{Processes: 10})
				if err != nil {
					t.Error(err)
					return
				}
				for _, g := range []*Group{g, h.Open(instance)} {
					if _, err := g.Remove(t.Context()); err != nil {
						t.Error(err)
					}
				}
				h.Open(base).RemoveIfEmpty()
			}
		})
	}
	all.Wait()
	h.Open(base).RemoveIfEmpty()
}

func TestASharedBoundThatCannotBeSetIsReported(t *testing.T) {
	dir := t.TempDir()
	h := &Hierarchy{v1: map[string]string{"memory": dir, "pids": dir, "cpu": dir}}
	g, err := h.Create("top/one", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.SharedError(); err == nil || !strings.Contains(err.Error(), "cpu.shares") {
		t.Errorf("without a file for the weight: %v", err)
	}
	for _, file := range []string{"cpu.shares", "pids.max"} {
		if err := os.WriteFile(filepath.Join(dir, "top", file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if g, err = h.Create("top/two", Limits{}); err != nil || g.SharedError() != nil {
		t.Errorf("with it: %v, %v", err, g.SharedError())
	}
}

func FuzzDetect(f *testing.F) {
	f.Add([]byte(disk + v2))
	f.Add([]byte(v1Memory + v1Pids + v1CPU))
	f.Add([]byte(" - cgroup \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := detect(b); err == nil && len(h.Open("a").Dirs()) == 0 {
			t.Error("a hierarchy without a mount point")
		}
	})
}
