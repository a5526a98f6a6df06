package pid1

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// resources maps the names of the limits that a sandbox may set to the kernel's
// numbers.
var resources = map[string]int{
	"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
}

// setRlimits sets limits on this process, which its children inherit.
func setRlimits(limits []sandbox.Rlimit) error {
	for _, l := range limits {
		resource, ok := resources[l.Name]
		if !ok {
			return fmt.Errorf("unknown limit %q", l.Name)
		}
		// Package unix cannot be used: Go gives children the soft limit on open
		// files that the process began with, unless it sees the limit being set.
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: l.Value, Max: l.Value}); err != nil {
			return fmt.Errorf("set %s to %d: %w", l.Name, l.Value, err)
		}
	}
	return nil
}
