package cgroup

import (
	"math"
	"os"
	"path/filepath"
)

// ProcessLimit returns how many processes and threads this service and its sandboxes may
// have: what the kernel numbers, or the smallest limit of a group above them that can be
// seen. In a container, that of its pod cannot. It returns 0 if nothing can be read.
func ProcessLimit() int {
	limit := processLimit("/proc", "/sys/fs/cgroup")
	if os.Geteuid() != 0 {
		return limit // the groups of this process bound its sandboxes too
	}
	if h, err := Detect(); err == nil {
		limit = h.Open(allSandboxes).processLimit("/proc")
	}
	return limit
}

// allSandboxes is the group of all sandboxes; only the groups above it matter here.
const allSandboxes = "dreamcore"

// processLimit returns the limit of the groups above g, or of the kernel.
func (g *Group) processLimit(proc string) int {
	limit := kernelProcesses(proc)
	for _, dir := range g.dirs {
		for at := filepath.Dir(dir); at != filepath.Dir(at); at = filepath.Dir(at) {
			if n, err := readInt(filepath.Join(at, "pids.max")); err == nil && n > 0 { // "max" is no number
				limit = min(limit, n)
			}
		}
	}
	return known(limit)
}

// processLimit is ProcessLimit for the groups of this process.
func processLimit(proc, mount string) int {
	limit := kernelProcesses(proc)
	ownGroups(proc, mount, "pids", func(dir, group string, _ bool) {
		limit = min(limit, smallest(dir, group, "pids.max"))
	})
	return known(limit)
}

// kernelProcesses returns how many the kernel numbers, or math.MaxInt32.
func kernelProcesses(proc string) int64 {
	limit := int64(math.MaxInt32)
	for _, name := range []string{"pid_max", "threads-max"} {
		if n, err := readInt(filepath.Join(proc, "sys/kernel", name)); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	return limit
}

func known(limit int64) int {
	if limit == math.MaxInt32 {
		return 0
	}
	return int(limit)
}

// SandboxProcesses returns how many of these all sandboxes together may have: the rest is
// for the service, which ends when the kernel gives it no thread. 0 if limit is.
func SandboxProcesses(limit int) int { return limit - limit/8 }

// tasksPerSandbox is how many processes and threads a sandbox takes that does nothing: 45
// with gVisor.
const tasksPerSandbox = 48

// SandboxRoom returns for how many sandboxes that do nothing these suffice; at least 1.
func SandboxRoom(limit int) int {
	if limit == 0 {
		return math.MaxInt
	}
	return max(SandboxProcesses(limit)/tasksPerSandbox, 1)
}
