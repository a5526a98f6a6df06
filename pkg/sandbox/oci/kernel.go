package oci

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Kernel is what a sandbox needs when its guests call the host's own kernel,
// as under runc: nothing but the kernel's rules is between them and the
// machine, so all that the kernel has are used.
type Kernel struct {
	// UID and GID are the sandbox's user. Files of projects belong to them on
	// the disk, and the mounts that can be written map them to ids of the
	// sandbox's own range.
	UID, GID uint32
	// Range is the range of host ids that the sandbox has for itself: no user of
	// the machine and no other sandbox has one of them. Many limits of the kernel
	// count by user id, and a guest can exhaust those of its own range only.
	Range Range
	// Userns is the path of a user namespace with the mappings of UIDMappings
	// and GIDMappings. Its owner must be an id of the range: what a guest takes
	// is counted to the owner of the namespace too.
	Userns string
	// Cgroup is the sandbox's group as an absolute path in every hierarchy.
	Cgroup string
}

// Range is the number of a range of host ids, below Ranges.
type Range uint32

// Ids inside are mapped to host ids from FirstID on. No system gives these to
// users: they are above the ranges of login users (those of directories too), of subordinate ids and of
// containers under systemd, and positive as 32-bit numbers.
const (
	FirstID  = 0x7800_0000
	Ranges   = 2047 // the last id of 31 bits is in none
	mapSize  = 1 << 16
	overflow = 65534 // what the kernel shows of owners that are not mapped
)

// Root returns the host id of root inside.
func (r Range) Root() uint32 { return FirstID + uint32(r)*mapSize }

// Validate refuses users that cannot be mapped.
func (k Kernel) Validate() error {
	if _, err := mapping(k.Range, k.UID); err != nil {
		return fmt.Errorf("user of the sandbox: %w", err)
	}
	if _, err := mapping(k.Range, k.GID); err != nil {
		return fmt.Errorf("group of the sandbox: %w", err)
	}
	return nil
}

// UIDMappings returns the mapping of user ids inside to those of the host.
func (k Kernel) UIDMappings() ([]specs.LinuxIDMapping, error) { return mapping(k.Range, k.UID) }

// GIDMappings returns the mapping of group ids inside to those of the host.
func (k Kernel) GIDMappings() ([]specs.LinuxIDMapping, error) { return mapping(k.Range, k.GID) }

// fit adds to a bundle what a shared kernel needs.
func (k *Kernel) fit(c *specs.Spec) error {
	if err := k.Validate(); err != nil {
		return err
	}
	calls, err := systemCalls(c)
	if err != nil {
		return err
	}
	c.Linux.Namespaces = append(c.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace, Path: k.Userns}, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	c.Linux.Sysctl = maps.Clone(userLimits)
	c.Linux.CgroupsPath = k.Cgroup
	c.Linux.Seccomp = calls
	c.Linux.MaskedPaths = slices.Clone(masked)
	c.Linux.RootfsPropagation = "private"
	// The engine may not set limits on a process in a user namespace that is not
	// its own, so PID 1 sets its own before it does anything.
	var limits []sandbox.Rlimit
	for _, l := range append(c.Process.Rlimits, rlimits...) {
		limits = append(limits, sandbox.Rlimit{Name: l.Type, Value: l.Hard})
	}
	c.Process.Rlimits = nil
	c.Process.Args = slices.Insert(c.Process.Args, 1, sandbox.RlimitArgs(limits)...)
	// The service outlives its guests when the whole machine is short of memory.
	c.Process.OOMScoreAdj = new(500)
	// /sys tells about the machine's devices, and no guest needs it.
	c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
	for i, m := range c.Mounts {
		switch {
		case m.Destination == "/dev":
			c.Mounts[i].Options = append(m.Options, "noexec")
		case m.Type == "devpts":
			c.Mounts[i].Options = append(m.Options, "max="+strconv.Itoa(maxTerminals))
		case m.Type == "bind" && slices.Contains(m.Options, "rw"):
			k.own(&c.Mounts[i])
		}
	}
	return nil
}

// own makes the files that belong to the sandbox's user on the disk those of
// the user's id in the range. Files of other owners keep them, so that they are
// of nobody inside; root inside is not root there.
func (k *Kernel) own(m *specs.Mount) {
	users, _ := mapping(k.Range, k.UID)
	groups, _ := mapping(k.Range, k.GID)
	m.UIDMappings, m.GIDMappings = onDisk(users, k.UID), onDisk(groups, k.GID)
}

// onDisk maps one id as m does, and all others of the disk to themselves.
func onDisk(m []specs.LinuxIDMapping, id uint32) []specs.LinuxIDMapping {
	var host uint32
	for _, r := range m {
		if id >= r.ContainerID && id-r.ContainerID < r.Size {
			host = r.HostID + id - r.ContainerID
		}
	}
	return []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: 0, Size: id},
		{ContainerID: id, HostID: host, Size: 1},
		{ContainerID: id + 1, HostID: id + 1, Size: FirstID - id - 1},
	}
}

// maxTerminals bounds the terminals of a sandbox. Without it one takes all
// that the machine has for containers.
const maxTerminals = 256

// userLimits bound what one user namespace takes of the kernel, below the
// limits that its owner has. The owner is of the sandbox's range, so that they
// hold for all users inside together.
var userLimits = map[string]string{
	"user.max_inotify_instances": "128",
	"user.max_inotify_watches":   "65536",
	"user.max_user_namespaces":   "0",
}

// masked are files of the kernel that tell about the machine, or about other
// sandboxes, or let it be touched: what Docker, Podman and containerd mask, and
// the command line of the boot.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms",
	"/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug",
	"/proc/scsi", "/proc/slabinfo", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
}

// rlimits are those that a process would otherwise have from the service, hard
// and soft.
var rlimits = []specs.POSIXRlimit{
	{Type: "RLIMIT_MEMLOCK", Hard: 64 << 10, Soft: 64 << 10},
	{Type: "RLIMIT_MSGQUEUE", Hard: 0, Soft: 0},
	{Type: "RLIMIT_NICE", Hard: 0, Soft: 0},
	{Type: "RLIMIT_RTPRIO", Hard: 0, Soft: 0},
	{Type: "RLIMIT_SIGPENDING", Hard: 1024, Soft: 1024},
}

// mapping maps the ids of a usual system to a range, and one id wherever it is.
func mapping(r Range, id uint32) ([]specs.LinuxIDMapping, error) {
	switch {
	case r >= Ranges:
		return nil, fmt.Errorf("there is no range %d of ids", r)
	case id == 0:
		return nil, fmt.Errorf("0 is root, who must not own the files of projects")
	case id == overflow || id >= FirstID-1:
		return nil, fmt.Errorf("%d has another meaning", id)
	case id >= mapSize: // in the place of an id that no system uses
		const last = mapSize - 1
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: r.Root(), Size: last}, {ContainerID: id, HostID: r.Root() + last, Size: 1}}, nil
	}
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: r.Root(), Size: mapSize}}, nil
}
