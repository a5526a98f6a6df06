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
	own, _ := os.ReadFile(filepath.Join(proc, "self/cgroup"))
	for line := range strings.Lines(string(own)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		switch {
		case parts[0] == "0" && parts[1] == "":
			limit = min(limit, smallest(mount, parts[2], "memory.max"))
			limit = min(limit, smallest(filepath.Join(mount, "unified"), parts[2], "memory.max"))
		case slices.Contains(strings.Split(parts[1], ","), "memory"):
			limit = min(limit, smallest(filepath.Join(mount, "memory"), parts[2], "memory.limit_in_bytes"))
		}
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
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
