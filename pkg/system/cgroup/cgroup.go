// Package cgroup creates and removes the cgroups that limit sandboxes. It uses
// cgroup v1, v2 and the hybrid of both directly: an engine that is started
// inside such a cgroup needs no cgroup code of its own, and the cgroup suffices
// to find and kill processes that a crash left running.
package cgroup

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of a cgroup. Zero leaves the resource unlimited.
type Limits struct {
	MemoryBytes int64
	CPUs        float64
	Processes   int // including threads, as the kernel counts them
}

// Hierarchy describes where the host's controllers are mounted.
type Hierarchy struct {
	unified   string            // mount point of cgroup v2 with controllers, or ""
	v1        map[string]string // controller → mount point
	base      string            // parent of all cgroups of this service, relative to the root; "" is the root
	delegated bool              // processes in base must be moved to a child: see enableBelow
}

// controllers are the controllers that limit a sandbox, in the order of setting.
var controllers = []string{"memory", "pids", "cpu"}

// extra is a cgroup v1 controller in which groups are created too if it is
// mounted: runc insists on limiting devices, and would create the group itself.
const extra = "devices"

// Detect finds the mounted controllers. It returns an error if memory, pids or
// cpu cannot be limited on this host.
func Detect() (*Hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	h, err := detect(mounts)
	if err != nil || h.unified == "" {
		return h, err
	}
	available, err := os.ReadFile(filepath.Join(h.unified, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	if err := h.check(available); err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	h.setBase(own)
	return h, nil
}

// check returns an error if cgroup v2 lacks a required controller, which may be
// disabled on the kernel's command line or not delegated to this container.
func (h *Hierarchy) check(available []byte) error {
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(available)), c) {
			return fmt.Errorf("the cgroup controller %q is not available in %s", c, h.unified)
		}
	}
	return nil
}

// detect parses mountinfo(5). Of several mounts of one hierarchy the first is
// used; later ones are copies for containers and chroots.
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

// String describes the version and location of the hierarchy.
func (h *Hierarchy) String() string {
	if h.unified != "" && h.base != "" {
		return "cgroup v2 at " + h.unified + ", sandboxes in " + h.base
	}
	if h.unified != "" {
		return "cgroup v2 at " + h.unified
	}
	return "cgroup v1, memory at " + h.v1["memory"]
}

// Group is one cgroup, in every hierarchy that it exists in.
type Group struct {
	dirs    []string
	unified bool
	shared  error // see SharedError
}

// SharedError returns why Create could not bound what all sandboxes together take from
// the service, or nil.
func (g *Group) SharedError() error { return g.shared }

// Path returns the path of the group Open(path) relative to the mount point of
// every hierarchy. It begins with a slash.
func (h *Hierarchy) Path(path string) string { return filepath.Join("/", h.base, path) }

// Open returns the group at path, such as "dreamcore/i-1/s-2", relative to the
// group in which this process may create groups. The group need not exist.
func (h *Hierarchy) Open(path string) *Group {
	if h.unified != "" {
		return &Group{dirs: []string{filepath.Join(h.unified, h.base, path)}, unified: true}
	}
	g := &Group{}
	for _, c := range append(slices.Clone(controllers), extra) {
		if h.v1[c] == "" {
			continue // extra is optional
		}
		dir := filepath.Join(h.v1[c], path)
		if len(g.dirs) == 0 || g.dirs[len(g.dirs)-1] != dir { // cpu,cpuacct share a mount
			g.dirs = append(g.dirs, dir)
		}
	}
	return g
}

// createRetries bounds how often the creation of a group is retried after its
// parent was removed.
const createRetries = 20

// Create creates the group at path with its parents and sets its limits. On an
// error it leaves nothing behind.
func (h *Hierarchy) Create(path string, l Limits) (*Group, error) {
	g := h.Open(path)
	err := g.create(h, path, l)
	for again := 0; errors.Is(err, fs.ErrNotExist) && again < createRetries; again++ {
		// Another process has removed the empty parent in between.
		err = g.create(h, path, l)
	}
	if err != nil {
		_ = g.remove() // err says more
		return nil, fmt.Errorf("create cgroup %s: %w", path, err)
	}
	return g, nil
}

func (g *Group) create(h *Hierarchy, path string, l Limits) error {
	if g.unified {
		// A controller is available to a group only if every ancestor enables it.
		dir := filepath.Join(h.unified, h.base)
		parts := strings.Split(path, "/")
		for i, p := range parts {
			if err := enableBelow(dir, controllers, i == 0 && h.delegated); err != nil {
				return fmt.Errorf("enable controllers in %s: %w", dir, err)
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
		shared := h.Open(top)
		if g.shared = shared.yield(); g.shared != nil && !shared.Exists() {
			return fs.ErrNotExist // removed by another program; tried again
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
	optional    bool // the kernel may lack the file, with nothing to limit
}

// errNoFile means that the file of a setting does not exist: either the kernel
// lacks it, or the group was removed concurrently.
var errNoFile = fmt.Errorf("not supported by the kernel: %w", fs.ErrNotExist)

// yield gives the group that holds all sandboxes a fifth of the kernel's default
// weight for each processor, so that on a busy host the service handles requests
// before sandboxes compute. The kernel divides the weight of a group among the
// processors that it runs on, unlike that of a thread: one fifth in all would be a
// tenth for each of two, and any other program would nearly stop the agents. With
// the default or less, the service never gets less than half. Sandboxes keep equal
// shares among themselves. It also leaves process ids to the service: each sandbox has a
// limit of its own, but many at once could take all that the machine has.
func (g *Group) yield() error {
	file, normal := "cpu.shares", 1024
	if g.unified {
		file, normal = "cpu.weight", 100
	}
	err := g.set(file, strconv.Itoa(yielding(normal, runtime.NumCPU())))
	if n := SandboxProcesses(g.processLimit("/proc")); n > 0 {
		err = errors.Join(err, g.set("pids.max", strconv.Itoa(n)))
	}
	return err
}

// yielding returns the weight of all sandboxes on a number of processors.
func yielding(normal, processors int) int { return min(normal/5*processors, normal) }

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
			// memsw limits memory and swap together, hence it is set second.
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

// Dirs returns the directories of the group, for JoinDirs.
func (g *Group) Dirs() []string { return g.dirs }

// JoinDirs moves the calling process into the group with the given directories.
func JoinDirs(dirs []string) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// Exists reports whether any part of the group exists.
func (g *Group) Exists() bool {
	for _, dir := range g.dirs {
		if _, err := os.Stat(dir); err == nil {
			return true
		}
	}
	return false
}

// Processes returns the ids of the processes in the group itself, excluding
// those in its subgroups.
func (g *Group) Processes() ([]int, error) {
	return union(g.dirs, func(dir string) (pids []int, err error) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return pids, err
	})
}

// union returns what list finds in any of the directories of a group, sorted. A
// directory that was removed, perhaps just now, has nothing.
func union[T cmp.Ordered](dirs []string, list func(dir string) ([]T, error)) ([]T, error) {
	var all []T
	for _, dir := range dirs {
		found, err := list(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// OutOfMemory reports whether the kernel has killed a process of the group
// because the group reached its memory limit.
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

// Remove kills every process in the group and removes it. It is no error if the
// group does not exist. It returns the ids of the processes that it killed; the
// caller must reap those that are or become its children.
func (g *Group) Remove(ctx context.Context) (killed []int, err error) {
	for {
		pids, err := g.kill()
		for _, pid := range pids {
			if !slices.Contains(killed, pid) {
				killed = append(killed, pid)
			}
		}
		if err != nil {
			return killed, fmt.Errorf("remove cgroup: %w", err)
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

// RemoveIfEmpty removes the group if it has neither processes nor subgroups. An
// error is not worth reporting: the group is used again, or removed the next time.
func (g *Group) RemoveIfEmpty() { _ = g.remove() }

// remove removes the group's directories, which must have no process. A cgroup's
// files cannot be removed, hence os.Remove and never os.RemoveAll.
func (g *Group) remove() error {
	var errs []error
	for _, dir := range g.dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Children returns the names of the group's direct subgroups.
func (g *Group) Children() ([]string, error) {
	return union(g.dirs, func(dir string) (names []string, err error) {
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
		return names, err
	})
}
