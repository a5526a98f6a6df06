package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// oomCountDelay is how long after its out-of-memory event the kernel may take to
// count the killed process.
const oomCountDelay = time.Second

// KillOutOfMemory waits until the kernel has killed a process of the group
// because the group reached its memory limit, and then kills the others, because
// a partly killed sandbox is useless. It returns when ctx is done or the group is
// removed. With cgroup v2 the kernel itself kills the whole group.
func (g *Group) KillOutOfMemory(ctx context.Context) error {
	if g.unified {
		<-ctx.Done()
		return nil
	}
	events, err := g.memoryEvents()
	if err != nil {
		return fmt.Errorf("watch cgroup memory: %w", err)
	}
	defer events.Close()
	defer context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })()
	for ctx.Err() == nil {
		if _, err := events.Read(make([]byte, 8)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return fmt.Errorf("watch cgroup memory: %w", err)
		}
		for end := time.Now().Add(oomCountDelay); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			if g.OutOfMemory() {
				return g.Kill()
			}
			if !g.Exists() { // removal triggers an event too
				return nil
			}
		}
	}
	return nil
}

// memoryEvents returns a descriptor that becomes readable each time a cgroup v1
// group reaches its memory limit.
func (g *Group) memoryEvents() (*os.File, error) {
	for _, dir := range g.dirs {
		control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer control.Close()
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return nil, os.NewSyscallError("eventfd", err)
		}
		events := os.NewFile(uintptr(fd), "memory events")
		order := fmt.Sprintf("%d %d", fd, control.Fd())
		if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(order), 0); err != nil {
			return nil, errors.Join(err, events.Close())
		}
		return events, nil
	}
	return nil, fmt.Errorf("memory.oom_control: %w", errNoFile)
}

// Kill kills every process that is in the group at this time.
func (g *Group) Kill() error {
	_, err := g.kill()
	return err
}

// kill is Kill, and returns the processes.
func (g *Group) kill() ([]int, error) {
	pids, err := g.Processes()
	errs := []error{err}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("kill %d: %w", pid, err))
		}
	}
	return pids, errors.Join(errs...)
}
