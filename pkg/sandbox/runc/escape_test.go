package runc_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// perl runs a Perl program inside as a user and returns what it prints.
func perl(t *testing.T, sb sandbox.Sandbox, uid uint32, program string) string {
	t.Helper()
	var out, errs bytes.Buffer
	p, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/usr/bin/perl", "-e", program}, UID: uid, GID: uid, Stdout: &out, Stderr: &errs})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Fatalf("perl: %+v, %v, %s", exit, err, errs.String())
	}
	return out.String()
}

// calls are system calls that no guest may make, with arguments for which the
// kernel would otherwise succeed or return an error other than EPERM.
var calls = []struct {
	name string
	nr   int
	args string
}{
	{"mount", unix.SYS_MOUNT, `"none", "/tmp", "tmpfs", 0, 0`},
	{"umount2", unix.SYS_UMOUNT2, `"/tmp", 2`},
	{"pivot_root", unix.SYS_PIVOT_ROOT, `"/tmp", "/tmp"`},
	{"chroot", unix.SYS_CHROOT, `"/tmp"`},
	{"fsopen", unix.SYS_FSOPEN, `"tmpfs", 0`},
	{"open_tree", unix.SYS_OPEN_TREE, `-100, "/", 1`},
	{"move_mount", unix.SYS_MOVE_MOUNT, `-1, "", -1, "", 0`},
	{"unshare of a user namespace", unix.SYS_UNSHARE, fmt.Sprint(unix.CLONE_NEWUSER)},
	{"unshare of mounts", unix.SYS_UNSHARE, fmt.Sprint(unix.CLONE_NEWNS)},
	{"clone of a user namespace", unix.SYS_CLONE, fmt.Sprintf("%d, 0, 0, 0, 0", unix.CLONE_NEWUSER|int(unix.SIGCHLD))},
	{"setns", unix.SYS_SETNS, `-1, 0`},
	{"ptrace", unix.SYS_PTRACE, `16, 1, 0, 0`},
	{"process_vm_readv", unix.SYS_PROCESS_VM_READV, `1, 0, 0, 0, 0, 0`},
	{"pidfd_getfd", unix.SYS_PIDFD_GETFD, `-1, 0, 0`},
	{"keyctl", unix.SYS_KEYCTL, `0, -3, 0, 0, 0`},
	{"add_key", unix.SYS_ADD_KEY, `"user", "name", "x", 1, -3`},
	{"bpf", unix.SYS_BPF, `0, 0, 0`},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, `0, 0, -1, -1, 0`},
	{"userfaultfd", unix.SYS_USERFAULTFD, `1`},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP, `1, 0`},
	{"kexec_load", unix.SYS_KEXEC_LOAD, `0, 0, 0, 0`},
	{"init_module", unix.SYS_INIT_MODULE, `0, 0, ""`},
	{"finit_module", unix.SYS_FINIT_MODULE, `-1, "", 0`},
	{"delete_module", unix.SYS_DELETE_MODULE, `"x", 0`},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, `-1, 0, 0`},
	{"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, `-100, "/", 0, 0, 0`},
	{"personality without random addresses", unix.SYS_PERSONALITY, `0x40000`},
	{"syslog", unix.SYS_SYSLOG, `10, 0, 0`},
	{"sethostname", unix.SYS_SETHOSTNAME, `"x", 1`},
	{"socket to packets", unix.SYS_SOCKET, fmt.Sprintf("%d, 3, 0", unix.AF_PACKET)},
	{"socket to the kernel's ciphers", unix.SYS_SOCKET, fmt.Sprintf("%d, 5, 0", unix.AF_ALG)},
	{"socket to the hypervisor", unix.SYS_SOCKET, fmt.Sprintf("%d, 1, 0", unix.AF_VSOCK)},
	{"io_setup", unix.SYS_IO_SETUP, `1, 0`},
	{"mq_open", unix.SYS_MQ_OPEN, `"x", 66, 384, 0`},
	{"fanotify_init", unix.SYS_FANOTIFY_INIT, `0, 0`},
	{"quotactl", unix.SYS_QUOTACTL, `0, 0, 0, 0`},
	{"move_pages", unix.SYS_MOVE_PAGES, `1, 0, 0, 0, 0, 0`},
	{"reboot", unix.SYS_REBOOT, `0xfee1dead, 672274793, 0, 0`},
}

func TestSystemCallsAreRefused(t *testing.T) {
	need(t)
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []uint32{sandboxtest.UID, 0} {
		for _, c := range calls {
			// The kernel returns EPERM for many of these anyway. That the filter is
			// installed and complete is checked by package oci's tests and by the status.
			got := perl(t, sb, uid, fmt.Sprintf(`my @a = (%[2]s); $! = 0; my $r = syscall(%[1]d, @a); print "$r ", $!+0`, c.nr, c.args))
			if want := fmt.Sprintf("-1 %d", unix.EPERM); got != want {
				t.Errorf("user %d: %s returned %q, want %q", uid, c.name, got, want)
			}
		}
		// clone3 answers ENOSYS, so that libraries fall back to clone, whose flags can be filtered.
		if got := perl(t, sb, uid, `$! = 0; my $r = syscall(435, 0, 0); print "$r ", $!+0`); got != fmt.Sprintf("-1 %d", unix.ENOSYS) {
			t.Errorf("user %d: clone3 returned %q", uid, got)
		}
		if runtime.GOARCH == "amd64" {
			// x32 system calls have numbers of their own and must kill the process.
			pr, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/usr/bin/perl", "-e", "syscall(0x40000000 + 39)"}, UID: uid, GID: uid})
			if err != nil {
				t.Fatal(err)
			}
			if exit, err := pr.Wait(); err != nil || exit.Signal != unix.SIGSYS {
				t.Errorf("user %d: x32 system call: %+v, %v", uid, exit, err)
			}
		}
	}
}

func TestGuestsAreUnprivilegedOutside(t *testing.T) {
	need(t)
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	status := sandboxtest.Output(t, sb, "cat /proc/self/status")
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "Seccomp_filters:\t1", "CapBnd:\t00000000000000e1"} {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("missing %q in\n%s", want, status)
		}
	}
	for _, name := range []string{"uid_map", "gid_map"} {
		for _, line := range strings.Split(strings.TrimSpace(sandboxtest.Output(t, sb, "cat /proc/self/"+name)), "\n") {
			var inside, outside, size uint32
			if _, err := fmt.Sscan(line, &inside, &outside, &size); err != nil {
				t.Fatal(err)
			}
			if outside < oci.FirstID {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
	if got := sandboxtest.Output(t, sb, "cat /proc/self/cgroup"); strings.Contains(got, sb.ID()) {
		t.Errorf("cgroup paths of the host are visible: %s", got)
	}
	if got := sandboxtest.Output(t, sb, "ls -A /sys"); got != "" {
		t.Errorf("/sys contains %s", got)
	}
	for _, file := range []string{"/proc/cmdline", "/proc/kallsyms", "/proc/interrupts", "/proc/keys", "/proc/timer_list"} {
		if got := sandboxtest.Output(t, sb, "test -e "+file+" && cat "+file+" || true"); got != "" {
			t.Errorf("%s contains %q", file, got)
		}
	}
	if got := sandboxtest.Output(t, sb, "cd /dev && ls"); got != "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n" {
		t.Errorf("/dev contains %q", got)
	}
	// Programs cannot be executed from file systems that hold none.
	if got := sandboxtest.Output(t, sb, "for d in /dev /dev/shm /data; do cp /bin/true $d/x 2>/dev/null && $d/x 2>/dev/null && echo $d; done; true"); got != "" {
		t.Errorf("programs run in %s", got)
	}
}
