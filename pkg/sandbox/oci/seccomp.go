package oci

import (
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// refusedCalls are allowed by the default profile of containers, and not here:
// no guest of ours needs them, and each is a part of the kernel, or of other
// processes, that cannot be attacked then.
var refusedCalls = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", // other processes
	"modify_ldt", "remap_file_pages", "vmsplice", "memfd_secret", // odd memory
	"fanotify_mark", "name_to_handle_at", "listmount", "statmount", // file systems as a whole
	"adjtimex", "clock_adjtime", "clock_adjtime64", // the clock
	"mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink",
	"epoll_ctl_old", "epoll_wait_old", "socketcall",
	// Requests for asynchronous input and output are counted for the whole
	// machine (fs.aio-max-nr), so that one guest could take all of them.
	"io_setup", "io_submit", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_cancel", "io_destroy",
}

// families are the kinds of sockets that guests may make. Without a network
// these are a loopback and Unix sockets; the last is how programs list
// interfaces. The others are a large and little used part of the kernel.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// systemCalls is the list of what guests may ask of the kernel: Moby's, which
// follows new kernels and refuses namespaces, mounts, keys, BPF, modules and
// the like to those without the capability, and from that what we refuse too.
func systemCalls(c *specs.Spec) (*specs.LinuxSeccomp, error) {
	list, err := seccomp.GetDefaultProfile(c)
	if err != nil {
		return nil, fmt.Errorf("list of system calls: %w", err)
	}
	if list == nil || list.DefaultAction != specs.ActErrno || len(list.Architectures) == 0 {
		return nil, fmt.Errorf("list of system calls: there is none for this machine")
	}
	// The first is the machine's own. In the others calls have other numbers
	// and arguments, and our guests are not built for them.
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
