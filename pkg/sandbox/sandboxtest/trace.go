package sandboxtest

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// traces lists everything that sandboxes may leave on a machine.
type traces struct {
	dir        string
	names      []string // of the provider's own cgroups
	files      []string
	mounts     []string
	cgroups    []string
	processes  []string // descendants of this process, zombies included
	fds        int
	goroutines goleak.Option
}

// take records the state of the machine: files and mounts in dir, cgroups with one
// of names, this process and its descendants.
func take(dir string, names []string) *traces {
	t := &traces{dir: dir, names: names, goroutines: goleak.IgnoreCurrent()}
	t.look()
	return t
}

func (t *traces) look() {
	t.files, t.mounts, t.cgroups, t.processes = files(t.dir), mounts(t.dir), cgroups(t.names), descendants()
	fds, _ := os.ReadDir("/proc/self/fd")
	t.fds = len(fds)
}

// check fails the test if there is more on the machine now than when t was
// recorded. Processes that end by themselves get a moment to do so.
func (t *traces) check(tb testing.TB) {
	tb.Helper()
	deadline := time.Now().Add(3 * time.Second)
	for {
		now := &traces{dir: t.dir, names: t.names}
		now.look()
		more := t.diff(now)
		if more == "" {
			break
		}
		if time.Now().After(deadline) {
			tb.Errorf("left on the machine:\n%s", more)
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := goleak.Find(t.goroutines); err != nil {
		tb.Errorf("left in the process: %v", err)
	}
}

func (t *traces) diff(now *traces) string {
	var b strings.Builder
	add := func(kind string, before, after []string) {
		for _, s := range after {
			if !slices.Contains(before, s) {
				fmt.Fprintf(&b, "%s %s\n", kind, s)
			}
		}
	}
	pid := func(process string) string { return process[:strings.IndexByte(process, ' ')] }
	add("file", t.files, now.files)
	add("mount", t.mounts, now.mounts)
	add("cgroup", t.cgroups, now.cgroups)
	for _, p := range now.processes {
		if !slices.ContainsFunc(t.processes, func(old string) bool { return pid(old) == pid(p) }) {
			fmt.Fprintf(&b, "process %s\n", p)
		}
	}
	if now.fds > t.fds {
		fmt.Fprintf(&b, "file descriptors: %d, not %d\n", now.fds, t.fds)
	}
	return b.String()
}

func files(dir string) []string {
	var names []string
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			names = append(names, path)
		}
		return nil
	})
	return names
}

func mounts(dir string) []string {
	var points []string
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if strings.Contains(sc.Text(), dir) {
			points = append(points, sc.Text())
		}
	}
	return points
}

// cgroups returns the directories of all hierarchies that have one of names, or
// are below such a one. Concurrent tests may have others.
func cgroups(names []string) []string {
	var dirs []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return slices.Contains(names, s) }) {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// descendants returns the descendants of this process.
func descendants() []string {
	type process struct {
		parent int
		text   string
	}
	all := map[int]process{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (name) state ppid
		at := strings.LastIndexByte(string(b), ')')
		rest := strings.Fields(string(b)[at+1:])
		if at < 0 || len(rest) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(rest[1])
		all[pid] = process{parent, fmt.Sprintf("%d %s state %s", pid, string(b)[strings.IndexByte(string(b), '('):at+1], rest[0])}
	}
	var below []string
	for pid, p := range all {
		for up := p.parent; up > 1; up = all[up].parent {
			if up == os.Getpid() {
				below = append(below, fmt.Sprintf("%s of %d", p.text, all[pid].parent))
				break
			}
		}
	}
	return below
}
