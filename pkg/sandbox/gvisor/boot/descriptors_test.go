package boot

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The second way is for kernels without the first.
func TestInheritedDescriptorsAreClosedOnExec(t *testing.T) {
	for name, closeOnExec := range map[string]func() error{"the call": CloseOnExec, "one after the other": closeEachOnExec} {
		fd, err := unix.Dup(0) // without the flag
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := closeOnExec(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for fd, want := range map[int]int{fd: unix.FD_CLOEXEC, 1: 0} {
			if got, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || got != want {
				t.Errorf("%s: descriptor %d has the flags %d, %v", name, fd, got, err)
			}
		}
	}
}
