package boot

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstInherited is the first descriptor after standard input, output and error.
const firstInherited = 3

// CloseOnExec keeps the descriptors that this process inherited, other than the
// standard streams, from every program that it executes.
func CloseOnExec() error {
	if unix.CloseRange(firstInherited, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return nil
	}
	// Linux knows the call since 5.9 and its flag since 5.11, and a seccomp filter
	// may reject it.
	if err := closeEachOnExec(); err != nil {
		return fmt.Errorf("keep inherited descriptors from the sandbox: %w", err)
	}
	return nil
}

// closeEachOnExec does the same for one descriptor after the other.
func closeEachOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		if fd < firstInherited {
			continue
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
		if err != nil && !errors.Is(err, unix.EBADF) { // ReadDir has closed its own
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	return nil
}
