package sandboxtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// guestCaps are the capabilities of the supervisor and of programs that are
// started as root: CAP_CHOWN, CAP_KILL, CAP_SETGID and CAP_SETUID.
const guestCaps = "00000000000000e1"

// testEscapes tries known escapes from containers, as the ordinary user and as
// root inside.
func testEscapes(t *testing.T, sb sandbox.Sandbox) {
	for _, uid := range []uint32{UID, 0} {
		as := func(text string) string { return runAs(t, sb, uid, text) }
		none := func(what, text string) {
			t.Helper()
			if got := as(text); got != "" {
				t.Errorf("user %d: %s: %q", uid, what, got)
			}
		}
		checkCaps(t, uid, as("cat /proc/self/status"))
		checkNamespaces(t, uid, as("for n in /proc/self/ns/*; do readlink $n; done"))
		none("settings of the kernel that can be written",
			`find /proc/sys /proc/sysrq-trigger /proc/bus /proc/fs /proc/irq /sys ! -type l -writable ! -type d 2>/dev/null | while read -r f; do (: >>"$f") 2>/dev/null && (cat "$f" >/dev/null 2>&1; printf x >"$f") 2>/dev/null && echo "$f"; done | grep -v '^/proc/sys/kernel/hostname$'`)
		none("devices of the machine", "find /dev -type b; ls -d /dev/mem /dev/kmem /dev/port /dev/kmsg /dev/kvm /dev/loop* /dev/mapper /dev/vhost* /dev/input 2>/dev/null")
		none("devices that can be created", "for d in /tmp /dev /dev/shm; do for k in 'b 8 0' 'c 1 1'; do mknod $d/device $k 2>/dev/null && echo $d $k; done; done")
		none("file systems that can be mounted", "for t in proc sysfs tmpfs cgroup cgroup2 overlay devtmpfs; do mount -t $t $t /tmp 2>/dev/null && echo $t; done; mount --bind / /tmp 2>/dev/null && echo bind; mount -o remount,rw / 2>/dev/null && echo remount; umount /usr 2>/dev/null && echo umount")
		none("control sockets and groups of the machine", "ls -d /run/docker.sock /var/run/docker.sock /run/containerd /run/systemd /run/dbus /run/user /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent /sys/kernel/debug/* /sys/kernel/tracing/* /sys/firmware/* 2>/dev/null")
		none("ways through another process's root", "for p in /proc/[0-9]*; do ls $p/root/root $p/cwd/../root/.ssh 2>/dev/null; done; ls /proc/1/root/../work /proc/1/root/var/lib/dreamcore 2>/dev/null")
		none("programs that make root", "for f in /usr/bin/su /usr/bin/sudo /usr/bin/passwd /usr/bin/mount; do test -u $f && $f --version >/dev/null 2>&1 && grep -q . /etc/shadow 2>/dev/null && echo $f; done")
		none("memory of the kernel", "head -c 16 /proc/kcore 2>/dev/null; cat /proc/keys 2>/dev/null; grep -v '^0* ' /proc/kallsyms 2>/dev/null | head -1; dmesg 2>/dev/null | grep -i 'linux version [5-9]'")
	}
}

func checkCaps(t *testing.T, uid uint32, status string) {
	t.Helper()
	const none = "0000000000000000"
	want := map[string]string{"CapInh": none, "CapAmb": none, "CapBnd": guestCaps, "CapPrm": none, "CapEff": none}
	if uid == 0 {
		want["CapPrm"], want["CapEff"] = guestCaps, guestCaps
	}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		if caps, ok := want[name]; ok && value != caps {
			t.Errorf("user %d: %s=%s, not %s", uid, name, value, caps)
		}
	}
	if !strings.Contains(status, "CapEff:") {
		t.Errorf("user %d: no capabilities in the status", uid)
	}
}

// checkNamespaces fails the test if one of the links is a namespace of this
// process.
func checkNamespaces(t *testing.T, uid uint32, links string) {
	t.Helper()
	ours, err := filepath.Glob("/proc/self/ns/*")
	must(t, err)
	inside := strings.Fields(links)
	for _, name := range ours {
		link, err := os.Readlink(name)
		if err != nil || strings.HasPrefix(link, "time:") { // sandboxes share the clocks of the machine
			continue
		}
		if slices.Contains(inside, link) {
			t.Errorf("user %d is in the machine's namespace %s", uid, link)
		}
	}
}
