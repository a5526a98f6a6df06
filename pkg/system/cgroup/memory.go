package cgroup

import (
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MemoryLimit returns how many bytes of memory this process may use: the
// smallest limit of its cgroup and its ancestors, or else the host's memory.
// It returns 0 if neither can be read.
func MemoryLimit() int64 { return memoryLimit("/proc", "/sys/fs/cgroup") }

func memoryLimit(proc, mount string) int64 {
	limit := int64(math.MaxInt64)
	if total := hostMemory(filepath.Join(proc, "meminfo")); total > 0 {
		limit = total
	}
	ownGroups(proc, mount, "memory", func(dir, group string, unified bool) {
		file := "memory.limit_in_bytes"
		if unified {
			file = "memory.max"
		}
		limit = min(limit, smallest(dir, group, file))
	})
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// MemoryRoom returns how many bytes the groups of this process can still get before one
// of them reaches its limit, where the kernel drops pages of files first. It
// returns math.MaxInt64 if no group has a limit.
func MemoryRoom() int64 { return memoryRoom("/proc", "/sys/fs/cgroup") }

func memoryRoom(proc, mount string) int64 {
	room := int64(math.MaxInt64)
	ownGroups(proc, mount, "memory", func(dir, group string, unified bool) {
		if unified {
			room = min(room, roomBelow(dir, group, "memory.max", "memory.current", ""))
		} else {
			room = min(room, roomBelow(dir, group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
		}
	})
	return room
}

// ownGroups calls visit for each cgroup of this process that may limit a resource of a
// controller. dir is where the hierarchy may be mounted; unified reports cgroup v2.
func ownGroups(proc, mount, controller string, visit func(dir, group string, unified bool)) {
	own, _ := os.ReadFile(filepath.Join(proc, "self/cgroup"))
	for line := range strings.Lines(string(own)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "":
			visit(mount, parts[2], true)
			visit(filepath.Join(mount, "unified"), parts[2], true)
		case slices.Contains(strings.Split(parts[1], ","), controller):
			visit(filepath.Join(mount, controller), parts[2], false)
		}
	}
}

// roomBelow returns the smallest difference between the limit and the use of a group and
// its ancestors. prefix begins the names in memory.stat that count all groups below.
//
// As in MemAvailable of the kernel, all unused pages of files and half of those in use
// count as free: the kernel drops the latter too before it ends processes, but a service
// whose pages are all dropped reads them again and again.
func roomBelow(mount, group, limit, usage, prefix string) int64 {
	room := int64(math.MaxInt64)
	for at := path.Clean("/" + group); ; at = path.Dir(at) {
		dir := filepath.Join(mount, at)
		most, err := readInt(filepath.Join(dir, limit))
		used, err2 := readInt(filepath.Join(dir, usage))
		if err == nil && err2 == nil && most > 0 && used >= 0 {
			stat := filepath.Join(dir, "memory.stat")
			used -= min(used, statValue(stat, prefix+"inactive_file"))
			used -= min(used, statValue(stat, prefix+"active_file")/2)
			room = min(room, max(0, most-used))
		}
		if at == "/" {
			return room
		}
	}
}

func readInt(file string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}

// statValue returns a value of a memory.stat, or 0.
func statValue(file, name string) int64 {
	raw, _ := os.ReadFile(file)
	for line := range strings.Lines(string(raw)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			n, _ := strconv.ParseInt(value, 10, 64)
			return max(0, n)
		}
	}
	return 0
}

// smallest returns the smallest limit of a group and its ancestors. In a
// container the path may be the host's, of which only the root is visible.
func smallest(mount, group, file string) int64 {
	limit := int64(math.MaxInt64)
	for at := path.Clean("/" + group); ; at = path.Dir(at) {
		raw, err := os.ReadFile(filepath.Join(mount, at, file))
		if n, err2 := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && err2 == nil && n > 0 {
			limit = min(limit, n)
		}
		if at == "/" {
			return limit
		}
	}
}

func hostMemory(file string) int64 {
	raw, _ := os.ReadFile(file)
	for line := range strings.Lines(string(raw)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 && kib > 0 && kib < math.MaxInt64>>10 {
			return kib << 10
		}
	}
	return 0
}
