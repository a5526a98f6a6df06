package oci

import (
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// refusedCalls are system calls that the default container profile allows but
// no guest needs. Refusing them removes parts of the kernel, and access to other
// processes, from the attack surface.
var refusedCalls = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", // other processes
	"modify_ldt", "remap_file_pages", "vmsplice", "memfd_secret", // unusual memory
	"fanotify_mark", "name_to_handle_at", "listmount", "statmount", // file systems as a whole
	"adjtimex", "clock_adjtime", "clock_adjtime64", // the clock
	"mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink",
	"epoll_ctl_old", "epoll_wait_old", "socketcall",
	// Asynchronous I/O requests are counted for the whole host (fs.aio-max-nr),
	// so one guest could use up all of them.
	"io_setup", "io_submit", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_cancel", "io_destroy",
}

// families are the socket families that guests may create. Without a network
// they provide loopback and Unix sockets; programs use netlink to list
// interfaces. The others are a large and little used part of the kernel.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// systemCalls returns the system calls that guests may make: Moby's default
// profile, which is kept current with new kernels and refuses namespaces,
// mounts, keys, BPF, modules and the like without the capability, minus
// refusedCalls and other socket families.
func systemCalls(c *specs.Spec) (*specs.LinuxSeccomp, error) {
	list, err := seccomp.GetDefaultProfile(c)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if list == nil || list.DefaultAction != specs.ActErrno || len(list.Architectures) == 0 {
		return nil, fmt.Errorf("seccomp profile: this architecture is not supported")
	}
	// The first architecture is the host's native one. The others number system
	// calls and pass arguments differently, and no guest is built for them.
	list.Architectures = list.Architectures[:1]
	var rules []specs.LinuxSyscall
	for _, r := range list.Syscalls {
		r.Names = slices.DeleteFunc(slices.Clone(r.Names), func(name string) bool {
			return name == "socket" || slices.Contains(refusedCalls, name)
		})
		if len(r.Names) > 0 {
			rules = append(rules, r)
		}
	}
	for _, f := range families {
		rules = append(rules, specs.LinuxSyscall{
			Names: []string{"socket"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: f, Op: specs.OpEqualTo}},
		})
	}
	list.Syscalls = rules
	return list, nil
}
