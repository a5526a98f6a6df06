package oci

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Kernel is what a sandbox needs when its guests call the host's own kernel,
// as under runc: nothing but the kernel's rules is between them and the
// machine, so all that the kernel has are used.
type Kernel struct {
	// UID and GID are the sandbox's user, who has the same ids inside and
	// outside: the files of projects belong to them. All other ids inside, root
	// above all, are ids outside that own nothing.
	UID, GID uint32
	// Cgroup is the sandbox's group as an absolute path in every hierarchy.
	Cgroup string
}

// Ids inside are mapped to FirstID and those that follow. No system gives
// these to anybody: they are above the ranges of login users, of subordinate
// ids and of systemd, and positive as 32-bit numbers.
const (
	FirstID  = 0x7F00_0000
	mapSize  = 1 << 16
	overflow = 65534 // what the kernel shows of owners that are not mapped
)

// RootID is the user and the group outside that root inside is.
const RootID = FirstID

// Validate refuses users that cannot be the same inside and outside.
func (k Kernel) Validate() error {
	if _, err := mapping(k.UID); err != nil {
		return fmt.Errorf("user of the sandbox: %w", err)
	}
	if _, err := mapping(k.GID); err != nil {
		return fmt.Errorf("group of the sandbox: %w", err)
	}
	return nil
}

// fit adds to a bundle what a shared kernel needs.
func (k *Kernel) fit(c *specs.Spec) error {
	if err := k.Validate(); err != nil {
		return err
	}
	users, _ := mapping(k.UID)
	groups, _ := mapping(k.GID)
	calls, err := systemCalls(c)
	if err != nil {
		return err
	}
	c.Linux.UIDMappings, c.Linux.GIDMappings = users, groups
	c.Linux.Namespaces = append(c.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	c.Linux.CgroupsPath = k.Cgroup
	c.Linux.Seccomp = calls
	c.Linux.MaskedPaths = slices.Clone(masked)
	c.Linux.RootfsPropagation = "private"
	c.Process.Rlimits = append(c.Process.Rlimits, rlimits...)
	// The service outlives its guests when the whole machine is short of memory.
	c.Process.OOMScoreAdj = new(500)
	// /sys tells about the machine's devices, and no guest needs it.
	c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
	for i, m := range c.Mounts {
		if m.Destination == "/dev" {
			c.Mounts[i].Options = append(m.Options, "noexec")
		}
	}
	return nil
}

// masked are files of the kernel that tell about the machine, or about other
// sandboxes, or let it be touched: what Docker, Podman and containerd mask, and
// the command line of the boot.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms",
	"/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug",
	"/proc/scsi", "/proc/slabinfo", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
}

// rlimits are those that a process would otherwise have from the service.
var rlimits = []specs.POSIXRlimit{
	{Type: "RLIMIT_MEMLOCK", Hard: 64 << 10, Soft: 64 << 10},
	{Type: "RLIMIT_MSGQUEUE", Hard: 0, Soft: 0},
	{Type: "RLIMIT_NICE", Hard: 0, Soft: 0},
	{Type: "RLIMIT_RTPRIO", Hard: 0, Soft: 0},
	{Type: "RLIMIT_SIGPENDING", Hard: 1024, Soft: 1024},
}

// mapping gives every id of a usual system to FirstID and following, but one
// to itself.
func mapping(same uint32) ([]specs.LinuxIDMapping, error) {
	switch {
	case same == 0:
		return nil, fmt.Errorf("0 is root, who must not be the same inside and outside")
	case same == overflow || same >= FirstID:
		return nil, fmt.Errorf("%d has another meaning", same)
	case same >= mapSize:
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: FirstID, Size: mapSize}, {ContainerID: same, HostID: same, Size: 1}}, nil
	}
	return []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: FirstID, Size: same},
		{ContainerID: same, HostID: same, Size: 1},
		{ContainerID: same + 1, HostID: FirstID + same + 1, Size: mapSize - same - 1},
	}, nil
}
