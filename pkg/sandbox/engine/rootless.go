package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// rootless reports whether sandboxes of this process are started without root:
// in a user namespace with one user, and without a cgroup, which only root may
// create.
func rootless() bool { return os.Geteuid() != 0 }

// Unlimited returns the names, for operators, of the limits that sandboxes of
// this process cannot have; nil as root. Memory is measured instead, and limits
// inside a sandbox always hold.
func Unlimited() []string {
	if !rootless() {
		return nil
	}
	return []string{"CPU", "processes on the host"}
}

// ReasonNeedsRoot is the reason of an error of an engine that needs root.
const ReasonNeedsRoot dreamcore.Reason = "engine.needs-root"

// checkRootless returns an error if sandboxes cannot start without root.
func checkRootless(ctx context.Context, cfg Config) error {
	if cfg.Engine.Marks().Argument == nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonNeedsRoot, Message: "sandboxes of " + cfg.Engine.Name() + " need root",
			Hint: "run the command with sudo, or use gVisor, which works without root",
		}
	}
	if err := tryNamespace(ctx, cfg.Exe); err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "sandboxes without root need user namespaces, which cannot be created here", Err: err,
			Hint: "run the command with sudo, or allow them: sysctl user.max_user_namespaces=10000 (and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)",
		}
	}
	return nil
}

// tryNamespace runs our program in a user namespace in which it creates a mount
// namespace. Some systems allow the first but give no privileges in it.
func tryNamespace(ctx context.Context, exe string) error {
	cmd := exec.CommandContext(ctx, exe, "--version")
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, Unshareflags: unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
	}
	return cmd.Run()
}

// killNamed kills every process of this user that has all these arguments on its
// command line, until no such process exists, and returns those that it killed. Without a
// cgroup nothing else identifies the processes of a sandbox for certain: a
// recorded id may have been reused. What gVisor starts below these processes is
// in their process namespaces and ends with them.
func killNamed(ctx context.Context, arguments ...string) ([]int, error) {
	var killed []int
	// A process may start another one during a round and end before that one is
	// seen, so two rounds in a row must find none. A process that is executing
	// another program has no command line for a moment.
	for quiet, unsure := 0, 0; quiet < 2; {
		found, nameless, err := killRound(arguments)
		if err != nil {
			return killed, err
		}
		switch {
		case len(found) > 0:
			quiet = 0
			killed = append(killed, found...)
			slices.Sort(killed)
			killed = slices.Compact(killed)
		case nameless && unsure < maxUnsure:
			quiet = 0
			unsure++
		default:
			quiet++
			continue
		}
		select {
		case <-ctx.Done():
			if len(found) > 0 {
				return killed, fmt.Errorf("processes %v do not end: %w", found, ctx.Err())
			}
			time.Sleep(time.Millisecond) // maxUnsure bounds how often
		case <-time.After(time.Millisecond):
		}
	}
	return killed, nil
}

// maxUnsure bounds how often killNamed waits for processes of this user without a
// command line, a millisecond each time: some stay like that.
const maxUnsure = 100

// killRound kills the processes that it finds. nameless reports that there is a
// process of this user that has no command line yet.
func killRound(arguments []string) (found []int, nameless bool, err error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, false, err
	}
	var errs []error
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil || pid == os.Getpid() {
			continue
		}
		ok, err := killIf(pid, arguments)
		errs = append(errs, err)
		if ok {
			found = append(found, pid)
		} else if !nameless {
			nameless = isNameless(name)
		}
	}
	return found, nameless, errors.Join(errs...)
}

// isNameless reports whether a living process of this user has no command line.
func isNameless(dir string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(raw) > 0 {
		return false
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return false
	}
	s, ok := parseStat(stat)
	return ok && s.state != "Z" && s.state != "X" && ours(filepath.Join(dir, "status"))
}

// killIf kills a process if it has the arguments. The descriptor ensures that it
// is the one whose command line was read.
func killIf(pid int, arguments []string) (bool, error) {
	if !hasArguments(pid, arguments) {
		return false, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // it has ended, or is a thread
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !hasArguments(pid, arguments) {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("kill process %d: %w", pid, err)
	}
	return true, nil
}

// hasArguments reports whether a process of this user has all these arguments. A
// dead process has none.
func hasArguments(pid int, arguments []string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	raw, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return false
	}
	given := bytes.Split(bytes.TrimSuffix(raw, []byte{0}), []byte{0})
	for _, a := range arguments {
		if !slices.ContainsFunc(given, func(b []byte) bool { return string(b) == a }) {
			return false
		}
	}
	return ours(filepath.Join(dir, "status"))
}

// ours reports whether a process is this user's, by its status file: the owner of
// its directory in /proc is root if it has changed its privileges.
func ours(status string) bool {
	raw, err := os.ReadFile(status)
	if err != nil {
		return false
	}
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			ids := bytes.Fields(rest)
			return len(ids) > 0 && string(ids[0]) == strconv.Itoa(os.Getuid())
		}
	}
	return false
}
