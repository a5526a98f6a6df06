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

// rootless tells whether sandboxes of this process are started without root:
// in a user namespace with one user, and without a cgroup, which only root may
// make.
func rootless() bool { return os.Geteuid() != 0 }

// Unlimited names the limits that sandboxes of this process cannot have, for
// people: none for root. Those inside a sandbox always hold.
func Unlimited() []string {
	if !rootless() {
		return nil
	}
	return []string{"memory", "CPU", "processes on the host"}
}

// Unlimited names the limits that the provider cannot enforce.
func (p *Provider) Unlimited() []string {
	if p.hierarchy != nil {
		return nil
	}
	return Unlimited()
}

// checkRootless refuses to go on where a sandbox without root could not start.
func checkRootless(ctx context.Context, cfg Config) error {
	if cfg.Engine.Marks().Argument == nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "sandboxes of " + cfg.Engine.Name() + " need root",
			Hint: "run the command with sudo, or leave --runtime out: gVisor works without root",
		}
	}
	if err := tryNamespace(ctx, cfg.Exe); err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "sandboxes without root need user namespaces, which cannot be made here", Err: err,
			Hint: "run the command with sudo, or allow them: sysctl user.max_user_namespaces=10000 (and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)",
		}
	}
	return nil
}

// tryNamespace runs our program in a user namespace in which it makes a mount
// namespace. Some systems give the first and then no privileges in it.
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

// killNamed kills every process of ours that has all these arguments on its
// command line, and returns those that it killed once there are none. Without
// a cgroup nothing else tells for certain whose a process is: an id may have
// got another owner since it was written down. What gVisor starts below these
// is in their process namespaces and ends with them.
func killNamed(ctx context.Context, arguments ...string) ([]int, error) {
	var killed []int
	// A process that starts another one while we look may be gone before the
	// other one is seen: so until nobody is found twice.
	// One that is becoming another program has no command line for a moment.
	unsure := 0
	for quiet := 0; quiet < 2; {
		found, nameless, err := killRound(arguments)
		if err != nil {
			return killed, err
		}
		if len(found) == 0 && nameless && unsure < maxUnsure {
			unsure++
			quiet = 0
			time.Sleep(time.Millisecond)
			continue
		}
		if len(found) == 0 {
			quiet++
			continue
		}
		quiet = 0
		killed = append(killed, found...)
		slices.Sort(killed)
		killed = slices.Compact(killed)
		select {
		case <-ctx.Done():
			return killed, fmt.Errorf("processes %v do not end: %w", found, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	return killed, nil
}

// maxUnsure bounds how often processes of this user without a command line are
// waited for, a millisecond each time: some stay like that.
const maxUnsure = 100

// killRound kills what it finds; nameless says that there is a process of this
// user of which it cannot tell yet.
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

// isNameless tells whether a process of ours, which is not dead, has no command
// line.
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

// killIf kills a process if it has the arguments. The descriptor makes sure
// that it is the one whose command line was read.
func killIf(pid int, arguments []string) (bool, error) {
	if !hasArguments(pid, arguments) {
		return false, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // gone, or a thread
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

// hasArguments tells whether a process of ours has all these arguments. The
// dead have none.
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

// ours tells whether a process is this user's: the owner of its directory in
// /proc is root for those that changed their privileges.
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
