package boot

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// memoryFile holds the sandbox's memory limit in bytes, alongside the bundle's
// config.json.
const memoryFile = "memory"

// Arguments of a sentry.
const (
	bundlePrefix    = "--bundle="      // the directory of the bundle follows
	totalMemoryFlag = "--total-memory" // the next argument is a number of bytes
)

// WriteMemory records a sandbox's memory limit in its bundle for LimitMemory.
func WriteMemory(bundle string, bytes int64) error {
	return os.WriteFile(filepath.Join(bundle, memoryFile), strconv.AppendInt(nil, bytes, 10), 0o600)
}

// LimitMemory returns a sentry's arguments with the sandbox's limit as the
// memory size that programs see. gVisor passes the host's memory size, because
// it does not know the limit: the service owns the cgroup. Without a recorded
// limit the arguments are unchanged: a sentry that re-executes itself already
// has the limit in them, and can no longer read the bundle.
func LimitMemory(args []string) []string {
	bundle := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, bundlePrefix) })
	total := slices.Index(args, totalMemoryFlag) + 1
	if bundle < 0 || total == 0 || total == len(args) {
		return args
	}
	recorded, err := os.ReadFile(filepath.Join(strings.TrimPrefix(args[bundle], bundlePrefix), memoryFile))
	if err != nil {
		return args
	}
	limit, err := strconv.ParseUint(string(recorded), 10, 63)
	if err != nil || limit == 0 {
		return args
	}
	host, err := strconv.ParseUint(args[total], 10, 64)
	if err != nil || host <= limit {
		return args
	}
	args = slices.Clone(args)
	args[total] = strconv.FormatUint(limit, 10)
	return args
}
