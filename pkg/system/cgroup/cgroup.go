// Package cgroup makes and removes the control groups that bound sandboxes. It
// speaks cgroup v1, v2 and the hybrid of both directly: an engine that is
// started inside a group of ours needs no cgroup code of its own, and a group
// is enough to find and end whatever a crash left.
package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of a group. Zero means that the controller sets no limit.
type Limits struct {
	MemoryBytes int64
	CPUs        float64
	Processes   int // threads count, as the kernel counts them
}

// Hierarchy is where the machine's controllers are mounted.
type Hierarchy struct {
	unified string            // mount point of cgroup v2 with controllers, or ""
	v1      map[string]string // controller → mount point
	base    string            // group that ours are below, relative to the top; "" is the top
	lent    bool              // base has processes that must make room: see giveBelow
}

// controllers are those that bound a sandbox, in the order they are set.
var controllers = []string{"memory", "pids", "cpu"}

// extra is a controller of cgroup v1 that groups live in too where it is
// mounted: runc insists on bounding devices, and makes the group if we do not.
const extra = "devices"

// Detect finds the mounted controllers. It fails when memory or pids cannot be
// bounded on this machine.
func Detect() (*Hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	h, err := detect(mounts)
	if err != nil || h.unified == "" {
		return h, err
	}
	given, err := os.ReadFile(filepath.Join(h.unified, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	if err := h.check(given); err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	h.settle(own)
	return h, nil
}

// check refuses a cgroup v2 without the controllers that we need: they may be
// off on the kernel's command line, or not given to this container.
func (h *Hierarchy) check(given []byte) error {
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(given)), c) {
			return fmt.Errorf("the cgroup controller %q is not available in %s", c, h.unified)
		}
	}
	return nil
}

// detect reads mountinfo(5). Of several mounts of one hierarchy the first
// counts; later ones are copies for containers and chroots.
func detect(mountinfo []byte) (*Hierarchy, error) {
	h := &Hierarchy{v1: map[string]string{}}
	var unified string
	sc := bufio.NewScanner(bytes.NewReader(mountinfo))
	for sc.Scan() {
		before, after, ok := strings.Cut(sc.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		switch right[0] {
		case "cgroup2":
			if unified == "" {
				unified = left[4]
			}
		case "cgroup":
			for o := range strings.SplitSeq(right[2], ",") {
				if h.v1[o] == "" {
					h.v1[o] = left[4]
				}
			}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	if h.v1["memory"] == "" && unified != "" {
		h.unified = unified
		return h, nil
	}
	for _, c := range controllers {
		if h.v1[c] == "" {
			return nil, fmt.Errorf("the cgroup controller %q is not mounted", c)
		}
	}
	return h, nil
}

// String says which version of cgroups the hierarchy is.
func (h *Hierarchy) String() string {
	if h.unified != "" && h.base != "" {
		return "cgroup v2 at " + h.unified + ", sandboxes in " + h.base
	}
	if h.unified != "" {
		return "cgroup v2 at " + h.unified
	}
	return "cgroup v1, memory at " + h.v1["memory"]
}

// Group is one control group, in every hierarchy it lives in.
type Group struct {
	dirs    []string
	unified bool
}

// Path is where the group that Open names path is in every hierarchy, from its
// mount point on: it begins with a slash.
func (h *Hierarchy) Path(path string) string { return filepath.Join("/", h.base, path) }

// Open names the group at path, such as "dreamcore/i-1/s-2", relative to the
// group that this process may make groups in. The group need not exist.
func (h *Hierarchy) Open(path string) *Group {
	if h.unified != "" {
		return &Group{dirs: []string{filepath.Join(h.unified, h.base, path)}, unified: true}
	}
	g := &Group{}
	for _, c := range append(slices.Clone(controllers), extra) {
		if h.v1[c] == "" {
			continue // the extra one
		}
		dir := filepath.Join(h.v1[c], path)
		if len(g.dirs) == 0 || g.dirs[len(g.dirs)-1] != dir { // cpu,cpuacct share a mount
			g.dirs = append(g.dirs, dir)
		}
	}
	return g
}

// makeAgain is how often the making of a group that lost its parent meanwhile
// is tried again.
const makeAgain = 20

// Create makes the group at path with its parents and sets its limits. On an
// error nothing is left.
func (h *Hierarchy) Create(path string, l Limits) (*Group, error) {
	g := h.Open(path)
	err := g.make(h, path, l)
	for again := 0; errors.Is(err, fs.ErrNotExist) && again < makeAgain; again++ {
		// Another program has removed the parent, which was empty, in between.
		err = g.make(h, path, l)
	}
	if err != nil {
		_ = g.remove()
		return nil, fmt.Errorf("create cgroup %s: %w", path, err)
	}
	return g, nil
}

func (g *Group) make(h *Hierarchy, path string, l Limits) error {
	if g.unified {
		// A controller is there for a group only if every group above gives it on.
		dir := filepath.Join(h.unified, h.base)
		parts := strings.Split(path, "/")
		for i, p := range parts {
			if err := giveBelow(dir, controllers, i == 0 && h.lent); err != nil {
				return fmt.Errorf("give controllers to %s: %w", dir, err)
			}
			dir = filepath.Join(dir, p)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	for _, dir := range g.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if top, _, ok := strings.Cut(path, "/"); ok {
		if err := h.Open(top).yield(); err != nil {
			return err
		}
	}
	for _, s := range g.settings(l) {
		if err := g.set(s.file, s.value); err != nil && !(s.optional && errors.Is(err, errNoFile)) {
			return err
		}
	}
	return nil
}

type setting struct {
	file, value string
	optional    bool // a kernel without the file has nothing to bound
}

// errNoFile is returned for a setting whose file does not exist: the kernel does
// not have it, or the group was removed meanwhile.
var errNoFile = fmt.Errorf("the kernel does not have it: %w", fs.ErrNotExist)

// yield gives the group that holds all sandboxes a fifth of the kernel's default
// weight: while the machine is busy, the service answers requests before
// sandboxes compute. Sandboxes keep equal shares among themselves.
func (g *Group) yield() error {
	if g.unified {
		return g.set("cpu.weight", "20")
	}
	return g.set("cpu.shares", "204")
}

const cpuPeriod = 100_000 // microseconds

func (g *Group) settings(l Limits) []setting {
	var s []setting
	if l.MemoryBytes > 0 {
		if g.unified {
			s = append(s,
				setting{file: "memory.max", value: strconv.FormatInt(l.MemoryBytes, 10)},
				setting{file: "memory.swap.max", value: "0", optional: true},
				setting{file: "memory.oom.group", value: "1"})
		} else {
			// The second bounds memory and swap together, hence after the first.
			s = append(s,
				setting{file: "memory.limit_in_bytes", value: strconv.FormatInt(l.MemoryBytes, 10)},
				setting{file: "memory.memsw.limit_in_bytes", value: strconv.FormatInt(l.MemoryBytes, 10), optional: true})
		}
	}
	if l.Processes > 0 {
		s = append(s, setting{file: "pids.max", value: strconv.Itoa(l.Processes)})
	}
	if l.CPUs > 0 {
		quota := strconv.FormatInt(int64(l.CPUs*cpuPeriod), 10)
		if g.unified {
			s = append(s, setting{file: "cpu.max", value: quota + " " + strconv.Itoa(cpuPeriod)})
		} else {
			s = append(s,
				setting{file: "cpu.cfs_period_us", value: strconv.Itoa(cpuPeriod)},
				setting{file: "cpu.cfs_quota_us", value: quota})
		}
	}
	return s
}

// set writes to the one hierarchy of the group that has the file.
func (g *Group) set(file, value string) error {
	for _, dir := range g.dirs {
		name := filepath.Join(dir, file)
		if _, err := os.Stat(name); err != nil {
			continue
		}
		if err := os.WriteFile(name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", file, value, err)
		}
		return nil
	}
	return fmt.Errorf("set %s: %w", file, errNoFile)
}

// Dirs are the directories of the group; JoinDirs takes them.
func (g *Group) Dirs() []string { return g.dirs }

// JoinDirs moves the calling process into the group with these directories.
func JoinDirs(dirs []string) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// Exists tells whether any part of the group is there.
func (g *Group) Exists() bool {
	for _, dir := range g.dirs {
		if _, err := os.Stat(dir); err == nil {
			return true
		}
	}
	return false
}

// Processes returns the ids of the processes in the group itself, not in
// groups below it.
func (g *Group) Processes() ([]int, error) {
	seen := map[int]bool{}
	var pids []int
	for _, dir := range g.dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) { // removed, or just now
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// OutOfMemory tells whether the kernel has killed a process of the group
// because the group's memory was used up.
func (g *Group) OutOfMemory() bool {
	for _, dir := range g.dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				f := strings.Fields(line)
				if len(f) == 2 && f[0] == "oom_kill" && f[1] != "0" {
					return true
				}
			}
		}
	}
	return false
}

// Remove kills every process in the group and removes it. A group that is not
// there is no error. It returns the ids of the processes that it killed: those
// that are or become children of the caller are the caller's to reap.
func (g *Group) Remove(ctx context.Context) (killed []int, err error) {
	for {
		pids, err := g.Processes()
		if err != nil {
			return killed, fmt.Errorf("remove cgroup: %w", err)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return killed, fmt.Errorf("remove cgroup: kill %d: %w", pid, err)
			}
			if !slices.Contains(killed, pid) {
				killed = append(killed, pid)
			}
		}
		err = g.remove()
		if err == nil {
			return killed, nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return killed, fmt.Errorf("remove cgroup: %w", err)
		}
		select {
		case <-ctx.Done():
			return killed, fmt.Errorf("remove cgroup: %w: processes %v do not end", ctx.Err(), pids)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// RemoveIfEmpty removes the group when it has neither processes nor groups
// below it, and leaves it alone otherwise.
func (g *Group) RemoveIfEmpty() { _ = g.remove() }

// remove removes the group's directories, which must have no process. Groups
// have no files that could be removed, so Remove and never RemoveAll.
func (g *Group) remove() error {
	var errs []error
	for _, dir := range g.dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Children returns the names of the groups directly below this one.
func (g *Group) Children() ([]string, error) {
	seen := map[string]bool{}
	var names []string
	for _, dir := range g.dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}
