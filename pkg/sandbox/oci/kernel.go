package oci

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Kernel configures a sandbox whose guests call the host's own kernel, as under
// runc. Only the kernel's own restrictions separate such guests from the host,
// so all of them are used.
type Kernel struct {
	// UID and GID are the sandbox's user. Project files belong to them on disk,
	// and writable mounts map them to ids of the sandbox's own range.
	UID, GID uint32
	// Range is the sandbox's exclusive range of host ids: neither a user of the
	// host nor another sandbox has any of them. Many kernel limits count by user
	// id, so a guest can exhaust only those of its own range.
	Range Range
	// Userns is the path of a user namespace with the mappings of Mappings. Its
	// owner must be an id of the range, because the kernel also charges what a
	// guest uses to the owner of the namespace.
	Userns string
	// Cgroup is the sandbox's cgroup as an absolute path in every hierarchy.
	Cgroup string
}

// Range is the index of a range of host ids; it is less than Ranges.
type Range uint32

// Ids inside are mapped to host ids from FirstID on. No system assigns these to
// users: they are above the ranges of login users (including directory
// services), of subordinate ids and of containers under systemd, and they are
// positive as signed 32-bit numbers.
const (
	FirstID  = 0x7800_0000
	Ranges   = 2047 // the last 31-bit id is in no range
	mapSize  = 1 << 16
	overflow = 65534 // the owner that the kernel reports for unmapped ids
)

// Root returns the host id of the sandbox's root user.
func (r Range) Root() uint32 { return FirstID + uint32(r)*mapSize }

// Mappings returns the mappings of user and group ids inside to host ids, or an
// error if the user or the group cannot be mapped.
func (k Kernel) Mappings() (users, groups []specs.LinuxIDMapping, err error) {
	if users, err = mapping(k.Range, k.UID); err != nil {
		return nil, nil, fmt.Errorf("user of the sandbox: %w", err)
	}
	if groups, err = mapping(k.Range, k.GID); err != nil {
		return nil, nil, fmt.Errorf("group of the sandbox: %w", err)
	}
	return users, groups, nil
}

// apply implements Mode.
func (k *Kernel) apply(c *specs.Spec, s sandbox.Spec) error {
	users, groups, err := k.Mappings()
	if err != nil {
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
	// The engine cannot set limits on a process in a user namespace that is not
	// its own, so PID 1 sets them on itself before it does anything else.
	var limits []sandbox.Rlimit
	for _, l := range append(c.Process.Rlimits, rlimits...) {
		limits = append(limits, sandbox.Rlimit{Name: l.Type, Value: l.Hard})
	}
	c.Process.Rlimits = nil
	c.Process.Args = append([]string{InitPath}, sandbox.Setup{Relay: s.Relay, Rlimits: limits}.Args()...)
	// When the host runs out of memory, guests are killed before the service.
	c.Process.OOMScoreAdj = new(sandbox.OOMScore(sandbox.OwnOOMScore()))
	// /sys describes the host's devices, and no guest needs it.
	c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
	for i, m := range c.Mounts {
		switch {
		case m.Destination == "/dev":
			c.Mounts[i].Options = append(m.Options, "noexec")
		case m.Type == "devpts":
			c.Mounts[i].Options = append(m.Options, "max="+strconv.Itoa(maxTerminals))
		case m.Type == "bind" && slices.Contains(m.Options, "rw"):
			c.Mounts[i].UIDMappings, c.Mounts[i].GIDMappings = onDisk(users, k.UID), onDisk(groups, k.GID)
		}
	}
	return nil
}

// onDisk maps files that belong to the sandbox's user or group on disk to its id
// in the range, which is that of m. Files of other owners keep their owner, which
// is unmapped inside; root inside is not root on the mount.
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

// maxTerminals bounds the terminals of a sandbox. Without it, one sandbox could
// use all the terminals that the host has for containers.
const maxTerminals = 256

// userLimits bound the kernel resources of one user namespace, below the limits
// of its owner. The owner is an id of the sandbox's range, so these limits apply
// to all users inside together.
var userLimits = map[string]string{
	"user.max_inotify_instances": "128",
	"user.max_inotify_watches":   "65536",
	"user.max_user_namespaces":   "0",
}

// masked are kernel files that reveal or modify the host or other sandboxes:
// what Docker, Podman and containerd mask, and the kernel's command line.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms",
	"/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug",
	"/proc/scsi", "/proc/slabinfo", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
}

// rlimits replace limits that a process would otherwise inherit from the
// service, both hard and soft.
var rlimits = []specs.POSIXRlimit{
	{Type: "RLIMIT_MEMLOCK", Hard: 64 << 10, Soft: 64 << 10},
	{Type: "RLIMIT_MSGQUEUE", Hard: 0, Soft: 0},
	{Type: "RLIMIT_NICE", Hard: 0, Soft: 0},
	{Type: "RLIMIT_RTPRIO", Hard: 0, Soft: 0},
	{Type: "RLIMIT_SIGPENDING", Hard: 1024, Soft: 1024},
}

// mapping maps ids below mapSize to a range, and additionally the id id if it
// is not below.
func mapping(r Range, id uint32) ([]specs.LinuxIDMapping, error) {
	switch {
	case r >= Ranges:
		return nil, fmt.Errorf("id range %d does not exist", r)
	case id == 0:
		return nil, fmt.Errorf("0 is root, which must not own project files")
	case id == overflow || id >= FirstID-1:
		return nil, fmt.Errorf("%d is reserved", id)
	case id >= mapSize: // replaces the last id of the range, which no system uses
		const last = mapSize - 1
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: r.Root(), Size: last}, {ContainerID: id, HostID: r.Root() + last, Size: 1}}, nil
	}
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: r.Root(), Size: mapSize}}, nil
}
