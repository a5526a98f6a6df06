package oci_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

var kernel = oci.Kernel{UID: 10000, GID: 10001, Range: 7, Userns: "/state/userns", Cgroup: "/dreamcore/i-1/s-1"}

// bundle writes a bundle and returns its configuration.
func bundle(t *testing.T, k *oci.Kernel) specs.Spec {
	t.Helper()
	dir := t.TempDir()
	var mode oci.Mode
	if k != nil {
		mode = k
	}
	if err := oci.WriteBundle(dir, "/opt/dreamcore", spec, mode); err != nil {
		t.Fatal(err)
	}
	return configuration(t, dir)
}

// configuration returns the configuration of the bundle in dir.
func configuration(t *testing.T, dir string) (c specs.Spec) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// outside returns the host id of an id inside.
func outside(t *testing.T, m []specs.LinuxIDMapping, id uint32) uint32 {
	t.Helper()
	for _, r := range m {
		if id >= r.ContainerID && id-r.ContainerID < r.Size {
			return r.HostID + id - r.ContainerID
		}
	}
	t.Fatalf("%d is not mapped: %+v", id, m)
	return 0
}

func TestSharedKernelUsesOwnIDRange(t *testing.T) {
	for _, user := range []uint32{1, 998, 10000, 65533, 65535, 65536, 1_000_000} {
		for _, number := range []oci.Range{0, 1, oci.Ranges - 1} {
			k := kernel
			k.UID, k.GID, k.Range = user, user+1, number
			if user+1 == 65534 {
				k.GID = 7
			}
			users, _, err := k.Mappings()
			if err != nil {
				t.Fatal(err)
			}
			first, last := uint64(oci.FirstID)+uint64(number)<<16, uint64(oci.FirstID)+uint64(number+1)<<16-1
			if last > 1<<31-2 {
				t.Fatalf("range %d ends at %d", number, last)
			}
			hosts := map[uint32]bool{}
			for _, id := range append(slices.Collect(seq(0, 65535)), user) {
				got := outside(t, users, id)
				if uint64(got) < first || uint64(got) > last || hosts[got] && id != user {
					t.Fatalf("user %d in range %d: id %d maps to %d", user, number, id, got)
				}
				hosts[got] = true
			}
			checkOwned(t, bundle(t, &k), k)
		}
	}
}

// seq iterates over the numbers from from to to-1.
func seq(from, to uint32) func(yield func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for i := from; i < to && yield(i); i++ {
		}
	}
}

// checkOwned checks that writable mounts map the sandbox's user to its range,
// and that read-only mounts are not mapped.
func checkOwned(t *testing.T, c specs.Spec, k oci.Kernel) {
	t.Helper()
	users, groups, err := k.Mappings()
	if err != nil {
		t.Fatal(err)
	}
	writable := 0
	for _, m := range c.Mounts {
		if m.Type != "bind" || !slices.Contains(m.Options, "rw") {
			if m.UIDMappings != nil || m.GIDMappings != nil {
				t.Errorf("%s is mapped", m.Destination)
			}
			continue
		}
		writable++
		for id, want := range map[uint32]uint32{0: 0, k.UID: outside(t, users, k.UID), k.UID + 1: k.UID + 1, 65534: 65534, oci.FirstID - 1: oci.FirstID - 1} {
			if got := outside(t, m.UIDMappings, id); got != want {
				t.Errorf("files of user %d in %s belong to %d, want %d", id, m.Destination, got, want)
			}
		}
		if got, want := outside(t, m.GIDMappings, k.GID), outside(t, groups, k.GID); got != want {
			t.Errorf("files of the group in %s belong to %d, want %d", m.Destination, got, want)
		}
	}
	if writable == 0 {
		t.Error("no mount is writable")
	}
}

// allows reports whether the profile allows a call with the given first argument.
func allows(s *specs.LinuxSeccomp, call string, arg uint64) bool {
	for _, r := range s.Syscalls {
		if r.Action != specs.ActAllow || !slices.Contains(r.Names, call) {
			continue
		}
		match := true
		for _, a := range r.Args {
			switch a.Op {
			case specs.OpEqualTo:
				match = match && a.Index == 0 && a.Value == arg
			case specs.OpMaskedEqual:
				match = match && a.Index == 0 && arg&a.Value == a.ValueTwo
			default:
				match = true // not evaluated here; treat as allowed
			}
		}
		if match {
			return true
		}
	}
	return false
}

func TestSystemCallsOfASharedKernel(t *testing.T) {
	s := bundle(t, &kernel).Linux.Seccomp
	if s == nil || s.DefaultAction != specs.ActErrno || len(s.Architectures) != 1 || len(s.Flags) != 0 {
		t.Fatalf("profile: %+v", s)
	}
	refused := strings.Fields(`mount umount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
		unshare setns clone3 ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp
		keyctl add_key request_key bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
		kexec_load kexec_file_load init_module finit_module delete_module open_by_handle_at name_to_handle_at
		reboot swapon swapoff syslog acct quotactl quotactl_fd settimeofday clock_settime adjtimex iopl ioperm
		sethostname setdomainname mknod_at lookup_dcookie nfsservctl vhangup fanotify_init fanotify_mark mbind
		move_pages migrate_pages set_mempolicy modify_ldt uselib ustat sysfs vm86 mq_open socketcall vmsplice io_setup io_submit no_such_call`)
	for _, call := range refused {
		if allows(s, call, 0) {
			t.Errorf("%s is allowed", call)
		}
	}
	for _, call := range strings.Fields("read write openat execve mmap futex wait4 kill setuid setgid setgroups socketpair connect bind accept4 epoll_wait inotify_add_watch prctl seccomp exit_group") {
		if !allows(s, call, 0) {
			t.Errorf("%s is refused", call)
		}
	}
	for _, flag := range []uint64{unix.CLONE_NEWNS, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP} {
		if allows(s, "clone", flag|unix.CLONE_VM) {
			t.Errorf("clone with %#x is allowed", flag)
		}
	}
	if !allows(s, "clone", unix.CLONE_VM|unix.CLONE_VFORK|uint64(unix.SIGCHLD)) {
		t.Error("clone is refused")
	}
	for family := range uint64(unix.AF_MAX) {
		want := family == unix.AF_UNIX || family == unix.AF_INET || family == unix.AF_INET6 || family == unix.AF_NETLINK
		if got := allows(s, "socket", family); got != want {
			t.Errorf("sockets of family %d: allowed %t", family, got)
		}
	}
	for _, tricks := range []uint64{0x0040000 /* ADDR_NO_RANDOMIZE */, 0x0400000 /* READ_IMPLIES_EXEC */, 0x0100000 /* MMAP_PAGE_ZERO */} {
		if allows(s, "personality", tricks) {
			t.Errorf("personality %#x is allowed", tricks)
		}
	}
}

func TestSharedKernelKeepsCommonRestrictions(t *testing.T) {
	plain, hard := bundle(t, nil), bundle(t, &kernel)
	for _, n := range plain.Linux.Namespaces {
		if !slices.Contains(hard.Linux.Namespaces, n) {
			t.Errorf("namespace %s is missing", n.Type)
		}
	}
	for _, n := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.CgroupNamespace, specs.NetworkNamespace} {
		own := specs.LinuxNamespace{Type: n}
		if n == specs.UserNamespace {
			own.Path = kernel.Userns
		}
		if !slices.Contains(hard.Linux.Namespaces, own) {
			t.Errorf("no separate %s namespace", n)
		}
	}
	for _, p := range plain.Linux.MaskedPaths {
		if !strings.HasPrefix(p, "/sys/") && !slices.Contains(hard.Linux.MaskedPaths, p) {
			t.Errorf("%s is not masked", p)
		}
	}
	setup, err := sandbox.ParseSetup(hard.Process.Args[1:])
	if err != nil || len(hard.Process.Rlimits) > 0 {
		t.Errorf("limits of PID 1: %v, of the engine: %+v", err, hard.Process.Rlimits)
	}
	for _, l := range plain.Process.Rlimits {
		if l.Hard != l.Soft || !slices.Contains(setup.Rlimits, sandbox.Rlimit{Name: l.Type, Value: l.Hard}) {
			t.Errorf("limit %+v is missing", l)
		}
	}
	if !slices.Equal(plain.Process.Capabilities.Bounding, hard.Process.Capabilities.Bounding) || !hard.Process.NoNewPrivileges || !hard.Root.Readonly {
		t.Errorf("process %+v, root %+v", hard.Process, hard.Root)
	}
	for _, m := range hard.Mounts {
		if m.Type == "sysfs" {
			t.Error("/sys is mounted")
		}
	}
}

func TestRootlessMapsOneUser(t *testing.T) {
	dir := t.TempDir()
	if err := oci.WriteBundle(dir, "/opt/dreamcore", spec, oci.Rootless{UID: 1000, GID: 0}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c specs.Spec
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	users, groups := []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 1000, Size: 1}}, []specs.LinuxIDMapping{{Size: 1}}
	if !slices.Equal(c.Linux.UIDMappings, users) || !slices.Equal(c.Linux.GIDMappings, groups) || c.Process.User.UID != 1000 {
		t.Errorf("users %+v, groups %+v, PID 1 %+v", c.Linux.UIDMappings, c.Linux.GIDMappings, c.Process.User)
	}
	if err := oci.WriteBundle(t.TempDir(), "/opt/dreamcore", spec, oci.Rootless{}); err == nil {
		t.Error("WriteBundle accepted a rootless sandbox for root")
	}
}

func TestALaterMountAtTheSamePathReplacesTheEarlierOne(t *testing.T) {
	dir := t.TempDir()
	s := sandbox.Spec{
		Root:   sandbox.Root{Path: "/state/root", Mounts: []sandbox.Mount{{Target: "/tmp", Size: 1 << 20}, {Target: "/data"}}},
		Mounts: []sandbox.Mount{{Target: "/tmp", Size: 2 << 20}},
	}
	if err := oci.WriteBundle(dir, "/bin/true", s, nil); err != nil {
		t.Fatal(err)
	}
	c := configuration(t, dir)
	var found [][]string
	for _, m := range c.Mounts {
		if m.Destination == "/tmp" {
			found = append(found, m.Options)
		}
	}
	if len(found) != 1 || !slices.Contains(found[0], "size=2097152") {
		t.Errorf("mounts at /tmp: %q", found)
	}
}
