package boot

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// memoryFile is the file beside a bundle's config.json with the memory limit of
// the sandbox in bytes.
const memoryFile = "memory"

// Arguments of a sentry.
const (
	bundlePrefix    = "--bundle="      // the directory of the bundle follows
	totalMemoryFlag = "--total-memory" // the next argument is a number of bytes
)

// WriteMemory notes the memory limit of a sandbox in its bundle, for
// LimitMemory.
func WriteMemory(bundle string, bytes int64) error {
	return os.WriteFile(filepath.Join(bundle, memoryFile), strconv.AppendInt(nil, bytes, 10), 0o600)
}

// LimitMemory returns the arguments of a sentry with the limit of its sandbox
// as the memory that programs see. gVisor passes the memory of the machine,
// because it knows no limit: the control group is ours. Without a note, the
// arguments stay as they are: a sentry that starts itself again has the limit
// in them already, and no longer sees the bundle.
func LimitMemory(args []string) []string {
	bundle := slices.IndexFunc(args, func(arg string) bool { return strings.HasPrefix(arg, bundlePrefix) })
	total := slices.Index(args, totalMemoryFlag) + 1
	if bundle < 0 || total == 0 || total == len(args) {
		return args
	}
	note, err := os.ReadFile(filepath.Join(strings.TrimPrefix(args[bundle], bundlePrefix), memoryFile))
	if err != nil {
		return args
	}
	limit, err := strconv.ParseUint(string(note), 10, 63)
	if err != nil || limit == 0 {
		return args
	}
	machine, err := strconv.ParseUint(args[total], 10, 64)
	if err != nil || machine <= limit {
		return args
	}
	args = slices.Clone(args)
	args[total] = strconv.FormatUint(limit, 10)
	return args
}
