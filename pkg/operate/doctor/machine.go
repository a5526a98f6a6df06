package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Names of the checks that others need.
const (
	NameRoot    = "root"
	NameCgroups = "cgroups"
)

// jobsDir is the directory of the logs of jobs, in the state directory.
const jobsDir = "jobs"

// Needs are the requirements that the machine is checked against.
type Needs struct {
	State     string   // directory
	Listen    string   // address of the service
	Sandboxes int      // at once
	Unlimited []string // resources of sandboxes that cannot be limited without root
}

// Machine returns the checks that need nothing but the machine.
func Machine(n Needs) []Check {
	return []Check{
		{Name: "kernel", Run: func(context.Context) (string, error) { return kernel() }},
		{Name: NameRoot, Run: func(context.Context) (string, error) { return root(os.Geteuid(), n.Unlimited) }},
		{Name: NameCgroups, Run: func(context.Context) (string, error) { return cgroups(os.Geteuid()) }},
		{Name: "namespaces", Run: func(context.Context) (string, error) { return namespaces("/proc/self/ns") }},
		{Name: "memory", Run: func(context.Context) (string, error) { return memory() }},
		{Name: "processes", Run: func(context.Context) (string, error) { return processes(cgroup.ProcessLimit(), n.Sandboxes) }},
		{Name: "disk", Run: func(context.Context) (string, error) { return diskSpace(n.State) }},
		{Name: "logs", Run: func(context.Context) (string, error) { return logs(filepath.Join(n.State, jobsDir)) }},
		{Name: "clock", Run: func(context.Context) (string, error) { return clock(time.Now()) }},
		{Name: "port", Run: func(ctx context.Context) (string, error) { return port(ctx, n.Listen) }},
	}
}

// Kernel releases: the oldest that gVisor supports, and those whose cgroup v2
// device rules corrupt memory.
var (
	oldestKernel = [2]int{4, 14}
	badFrom      = [2]int{6, 17}
	badBefore    = [2]int{7, 2}
)

func kernel() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return judgeKernel(unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
}

func judgeKernel(release, machine string) (string, error) {
	detail := "Linux " + release + ", " + machine
	v, ok := parseKernel(release)
	switch {
	case !ok:
		return "", concern("", detail+": a release of unknown form", "use Linux 4.14 or later")
	case less(v, oldestKernel):
		return "", fault("", detail+" is too old for gVisor", "use Linux 4.14 or later", nil)
	case !less(v, badFrom) && less(v, badBefore):
		return detail + " (its cgroup v2 device rules are faulty; gVisor does not use them)", nil
	}
	return detail, nil
}

func parseKernel(release string) (v [2]int, ok bool) {
	n, _ := fmt.Sscanf(release, "%d.%d", &v[0], &v[1])
	return v, n == len(v)
}

func less(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

func root(euid int, unlimited []string) (string, error) {
	if euid != 0 {
		return "", concern(ReasonNotRoot,
			fmt.Sprintf("running as user %d; without root, these limits of sandboxes cannot be enforced: %s", euid, strings.Join(unlimited, ", ")), "")
	}
	return "running as root", nil
}

func cgroups(euid int) (string, error) {
	if euid != 0 {
		return "only root uses them", nil
	}
	h, err := cgroup.Detect()
	if err != nil {
		return "", fault("", "sandboxes cannot be limited", "mount cgroup v2 (or v1 with memory, pids and cpu) at /sys/fs/cgroup", err)
	}
	return h.String(), nil
}

func namespaces(dir string) (string, error) {
	var missing []string
	for _, n := range []string{"ipc", "mnt", "net", "pid", "user", "uts"} {
		if _, err := os.Lstat(filepath.Join(dir, n)); err != nil {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		return "", fault("", "the kernel lacks these namespaces: "+strings.Join(missing, ", "), "use a kernel with CONFIG_NAMESPACES and its suboptions", nil)
	}
	return "ipc, mnt, net, pid, user, uts", nil
}

// processes checks that the machine has processes for so many sandboxes.
func processes(limit, sandboxes int) (string, error) {
	if limit == 0 {
		return "no limit is known", nil
	}
	room := cgroup.SandboxRoom(limit)
	detail := fmt.Sprintf("%d with their threads, for %d unused sandboxes", limit, room)
	if room < sandboxes {
		return "", concern("", fmt.Sprintf("%s: max_sandboxes is %d", detail, sandboxes),
			"raise the least of kernel.pid_max, kernel.threads-max and the limit of the service's cgroup (TasksMax of its unit), or lower max_sandboxes")
	}
	return detail, nil
}

// leastMemory is the memory that the service and one sandbox with the agent need, in bytes.
const leastMemory = 1 << 30

func memory() (string, error) {
	var i unix.Sysinfo_t
	if err := unix.Sysinfo(&i); err != nil {
		return "", err
	}
	total := uint64(i.Totalram) * uint64(i.Unit)
	detail := fmt.Sprintf("%.1f GiB", float64(total)/(1<<30))
	if total < leastMemory {
		return "", concern("", detail+": little for an agent, which uses about 0.3 GiB", "use a machine with 2 GiB or more")
	}
	return detail, nil
}

// Thresholds for the free space of the disk, in bytes.
const (
	diskFail = 32 << 20
	diskWarn = 2 << 30
)

// logs reports the logs of jobs that a service has found damaged.
func logs(dir string) (string, error) {
	n, bytes, err := journal.CountDamaged(dir)
	switch {
	case err != nil:
		return "", fault("", "the logs of jobs cannot be listed", "", err)
	case n > 0:
		return "", concern("", fmt.Sprintf("%d damaged logs of jobs are set aside, with %s", n, term.Size(bytes)),
			"the service removes them after journal_days; to look at them: ls "+filepath.Join(dir, "*.damaged"))
	}
	return "no damaged logs of jobs", nil
}

func diskSpace(state string) (string, error) {
	dir := state
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" || dir == "." {
			break
		}
		dir = filepath.Dir(dir)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", fault(ReasonState, "cannot inspect the disk of "+state, "", err)
	}
	free := fs.Bavail * uint64(fs.Bsize)
	detail := fmt.Sprintf("%.1f GiB free for %s", float64(free)/(1<<30), state)
	switch {
	case free < diskFail:
		return "", fault(ReasonState, detail, "free some space", nil)
	case free < diskWarn || fs.Files > 0 && fs.Ffree < 10_000:
		return "", concern("", fmt.Sprintf("%s, %d files", detail, fs.Ffree), "free some space: the agent alone takes 0.4 GiB, and projects grow")
	}
	return detail, nil
}

// earliest is a time in the past. With a clock before it, the certificates of the
// model API are not valid yet.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func clock(now time.Time) (string, error) {
	if now.Before(earliest) {
		return "", fault("", "the clock is at "+now.UTC().Format(time.RFC3339), "set the clock, for instance with: timedatectl set-ntp true", nil)
	}
	return now.UTC().Format(time.RFC3339), nil
}

func port(ctx context.Context, listen string) (string, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return "", concern(ReasonListen, listen+" is in use, perhaps by the service itself", "")
	}
	if err != nil {
		return "", fault(ReasonListen, "cannot listen on "+listen, "", err)
	}
	return listen + " is free", ln.Close()
}
