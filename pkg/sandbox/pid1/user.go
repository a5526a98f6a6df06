package pid1

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errLives is the error for processes that survive SIGKILL.
var errLives = errors.New("some processes do not die")

// endUser kills every process of the user uid until none is left. The kernel
// decides which processes those are, by its own check of who may signal whom:
// what /proc says about a process is in part that process's choice. The kill
// is one system call for all of them, so a program that multiplies cannot
// outrun it.
func (f *family) endUser(uid uint32, deadline time.Time) error {
	if uid == 0 {
		return errors.New("the processes of root are not ended alone")
	}
	for {
		var left bool
		f.mu.Lock() // nothing starts as the stranger meanwhile
		err := asUser(uid, f.stranger(uid), func() error {
			if err := syscall.Kill(-1, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.EPERM) {
				return fmt.Errorf("kill every process of a user: %w", err)
			}
			var err error
			left, err = signalsAny()
			return err
		})
		f.mu.Unlock()
		_, more := f.reap()
		switch {
		case err != nil:
			return err
		case !left:
			return nil
		case time.Now().After(deadline):
			return errLives
		case !more:
			time.Sleep(time.Millisecond)
		}
	}
}

// signalsAny reports whether the calling thread may signal a process other than
// PID 1, also one that has ended and is not reaped yet.
func signalsAny() (bool, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return false, err
	}
	defer proc.Close()
	for {
		names, err := proc.Readdirnames(256)
		for _, name := range names {
			pid, perr := strconv.Atoi(name)
			if perr == nil && pid > 1 && syscall.Kill(pid, 0) == nil {
				return true, nil
			}
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// stranger returns a user other than uid for whom no program was ever started: what runs
// with it as the real user may signal that user's programs too. It must be called with
// mu held.
func (f *family) stranger(uid uint32) uint32 {
	other := uint32(2)
	for other == uid || f.users[other] {
		other++
	}
	return other
}

// asUser calls f on a thread of its own whose effective user is uid, without
// any capability. The thread's real user is other and its saved user is root, so
// programs of uid cannot signal it.
func asUser(uid, other uint32, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Without an unlock, the thread ends with the goroutine.
		runtime.LockOSThread()
		defer func() {
			if err := setThreadUsers(0, 0); err == nil {
				runtime.UnlockOSThread()
			}
		}()
		err := setThreadUsers(other, uid)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// setThreadUsers sets the real and the effective user of the calling thread
// alone; package syscall would set those of all threads. The saved user stays
// root.
func setThreadUsers(real, effective uint32) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(real), uintptr(effective), 0); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	return nil
}
