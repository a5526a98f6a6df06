package sandboxtest

import (
	"fmt"
	"io/fs"
	"iter"
	"maps"
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
	names      []string          // of the provider's own cgroups
	found      map[string]string // what there is, with details
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
	t.found = map[string]string{}
	add := func(kind string, list []string) {
		for _, name := range list {
			t.found[kind+" "+name] = ""
		}
	}
	add("file", files(t.dir))
	add("mount", mounts(t.dir))
	// Concurrent tests may have cgroups of other names.
	add("cgroup", cgroups(func(dir string) bool {
		return slices.ContainsFunc(strings.Split(dir, "/"), func(s string) bool { return slices.Contains(t.names, s) })
	}))
	for pid, details := range descendants() { // zombies included
		t.found[fmt.Sprintf("process %d", pid)] = details
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	t.fds = len(fds)
}

// check fails the test if there is more on the machine now than when t was
// recorded. Processes that end by themselves get a moment to do so.
func (t *traces) check(tb testing.TB) {
	tb.Helper()
	more := t.more()
	for deadline := time.Now().Add(3 * time.Second); len(more) > 0 && time.Now().Before(deadline); more = t.more() {
		time.Sleep(5 * time.Millisecond)
	}
	if len(more) > 0 {
		tb.Errorf("left on the machine:\n%s", strings.Join(more, "\n"))
	}
	if err := goleak.Find(t.goroutines); err != nil {
		tb.Errorf("left in the process: %v", err)
	}
}

// more returns what there is on the machine besides t.
func (t *traces) more() (lines []string) {
	now := &traces{dir: t.dir, names: t.names}
	now.look()
	for what, details := range now.found {
		if _, old := t.found[what]; !old {
			lines = append(lines, what+" "+details)
		}
	}
	if now.fds > t.fds {
		lines = append(lines, fmt.Sprintf("file descriptors: %d, not %d", now.fds, t.fds))
	}
	return lines
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
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	return slices.DeleteFunc(strings.Split(string(table), "\n"), func(line string) bool { return !strings.Contains(line, dir) })
}

// cgroups returns the directories of all hierarchies that keep accepts.
func cgroups(keep func(dir string) bool) []string {
	var dirs []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && keep(path) {
			dirs = append(dirs, path)
		}
		return nil // a concurrent test may remove one
	})
	return dirs
}

// procFiles yields the file name of /proc/PID for every process of the host.
func procFiles(name string) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			if b, err := os.ReadFile(filepath.Join("/proc", e.Name(), name)); err == nil && !yield(pid, string(b)) {
				return
			}
		}
	}
}

// descendants returns the descendants of this process, with their names, states
// and parents.
func descendants() map[int]string {
	parents, details := map[int]int{}, map[int]string{}
	for pid, stat := range procFiles("stat") {
		// pid (name) state ppid
		at := strings.LastIndexByte(stat, ')')
		rest := strings.Fields(stat[at+1:])
		if at < 0 || len(rest) < 2 {
			continue
		}
		parents[pid], _ = strconv.Atoi(rest[1])
		details[pid] = fmt.Sprintf("%s state %s of %s", stat[strings.IndexByte(stat, '('):at+1], rest[0], rest[1])
	}
	maps.DeleteFunc(details, func(pid int, _ string) bool {
		up := parents[pid]
		for up > 1 && up != os.Getpid() {
			up = parents[up]
		}
		return up != os.Getpid()
	})
	return details
}
