package gvisor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// stranger is a user id that is not in use on the host.
const stranger = 23456

// TestWithoutRoot runs the tests of this file as a user other than root.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not running as root: the tests below run directly")
	}
	dir, err := os.MkdirTemp("", "dreamcore-rootless-") // only root can access t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, stranger, stranger)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied(t, self, filepath.Join(dir, "gvisor.test")), "-test.run=^TestRootless", "-test.count=1", "-test.v")
	cmd.Dir = home
	cmd.Env = []string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "TMPDIR=" + home, sandboxtest.NoSkipEnv + "=1",
		sandboxtest.BinaryEnv + "=" + copied(t, sandboxtest.Binary(t), filepath.Join(dir, "dreamcore")),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), "\n--- PASS: TestRootless"); n < 5 {
		t.Errorf("only %d tests have run without root", n)
	}
	if left := sandboxtest.Processes(dir); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

func copied(t *testing.T, from, to string) string {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(out.Chmod(0o755), out.Close()); err != nil {
		t.Fatal(err)
	}
	return to
}

// notRoot skips a test that TestWithoutRoot runs.
func notRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("run by TestWithoutRoot")
	}
}

// rootless returns a provider and a root for sandboxes of the current user.
func rootless(t *testing.T) (*engine.Provider, sandbox.Root, string) {
	t.Helper()
	notRoot(t)
	dir := t.TempDir()
	root, err := rootfs.Host(t.TempDir(), uint32(os.Getuid()), uint32(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	p, err := gvisor.New(t.Context(), gvisor.Config{Exe: sandboxtest.Binary(t), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if left := sandboxtest.Instances(t, dir); len(left) > 0 {
			t.Errorf("left after Close: %q", left)
		}
		if left := sandboxtest.Processes(dir); len(left) > 0 {
			t.Errorf("left after Close: %+v", left)
		}
	})
	return p, root, dir
}

// outputOf runs a script as the sandbox's user and returns its output.
func outputOf(t *testing.T, sb sandbox.Sandbox, script string) string {
	t.Helper()
	var out bytes.Buffer
	p, err := sb.Start(t.Context(), ourCommand(&out, "/bin/sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Fatalf("%s: %+v, %v, %s", script, exit, err, out.String())
	}
	return out.String()
}

func ourCommand(out io.Writer, args ...string) sandbox.Command {
	return sandbox.Command{
		Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Stdout: out, Stderr: out,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
	}
}

func TestRootlessSandbox(t *testing.T) {
	p, root, _ := rootless(t)
	if want := []string{"CPU", "processes on the host"}; !slices.Equal(engine.Unlimited(), want) {
		t.Errorf("Unlimited: %q", engine.Unlimited())
	}
	project, global := t.TempDir(), t.TempDir()
	began := time.Now()
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Mounts: []sandbox.Mount{
		{Source: project, Target: "/data/project", Writable: true},
		{Source: global, Target: "/global"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Create took %s", time.Since(began))
	if got := outputOf(t, sb, "cat /proc/version"); !strings.Contains(got, "gvisor") {
		t.Errorf("/proc/version: %q", got)
	}
	want := fmt.Sprintf("%d %d agent\n", os.Getuid(), os.Getgid())
	if got := outputOf(t, sb, "echo $(id -u) $(id -g) $(id -un)"); got != want {
		t.Errorf("id: %q, want %q", got, want)
	}
	if got := outputOf(t, sb, "echo text > /data/project/file; stat -c %u:%g /data/project/file"); got != fmt.Sprintf("%d:%d\n", os.Getuid(), os.Getgid()) {
		t.Errorf("owner of the file inside: %q", got)
	}
	fi, err := os.Stat(filepath.Join(project, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
		t.Errorf("owner of the file on the host: %d:%d", st.Uid, st.Gid)
	}
	for _, script := range []string{"echo x > /global/file", "echo x > /usr/file", "echo x > /file", "chown 1 /data/project/file", "cat /etc/shadow"} {
		if got := outputOf(t, sb, "("+script+") 2>/dev/null && echo done || echo refused"); got != "refused\n" {
			t.Errorf("%s: %q", script, got)
		}
	}
	if got := outputOf(t, sb, "ls /sys/class/net; cat /proc/net/route | wc -l"); strings.Contains(got, "eth") {
		t.Errorf("network devices: %q", got)
	}
}

func TestRootlessGuestsCannotControlPID1(t *testing.T) {
	p, root, _ := rootless(t)
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(outputOf(t, sb, "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status")) {
		if strings.Trim(strings.Fields(line)[1], "0") != "" {
			t.Errorf("a program has capabilities: %s", line)
		}
	}
	// ptrace(2) is 101 on amd64 and 117 on arm64; 16 attaches.
	got := outputOf(t, sb, `kill -9 1; kill -STOP 1; perl -e '$n = `+"`uname -m`"+` =~ /aarch64/ ? 117 : 101; print syscall($n, 16, 1, 0, 0) == 0 ? "traced" : "refused: $!"'`)
	if !strings.Contains(got, "refused: Operation not permitted") {
		t.Errorf("ptrace of PID 1: %q", got)
	}
	if got := outputOf(t, sb, "head -c1 /proc/1/mem >/dev/null 2>&1 && echo read || echo refused"); got != "refused\n" {
		t.Errorf("memory of PID 1: %q", got)
	}
	if got := outputOf(t, sb, "echo alive"); got != "alive\n" {
		t.Errorf("PID 1 after all that: %q", got)
	}
}

func TestRootlessEndAll(t *testing.T) {
	p, root, _ := rootless(t)
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	outputOf(t, sb, "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT; sleep 1000 & sleep 1000' >/dev/null 2>&1 & done; sleep 0.2")
	count := "ls -d /proc/[0-9]* | wc -l"
	if got := outputOf(t, sb, count); strings.TrimSpace(got) < "5" && len(got) < 3 {
		t.Errorf("%s processes run before EndAll", got)
	}
	if err := sb.EndAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := outputOf(t, sb, "ps -e -o comm= 2>/dev/null | grep -c sleep || true"); got != "0\n" {
		t.Errorf("sleeps after EndAll: %q", got)
	}
}

func TestRootlessEndUser(t *testing.T) {
	p, root, _ := rootless(t)
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	other, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/bin/sleep", "1001"}, UID: 61000, GID: 61000})
	if err != nil {
		t.Fatal(err)
	}
	outputOf(t, sb, "for i in 1 2 3; do setsid sleep 1000 >/dev/null 2>&1 & done; sleep 0.2")
	const sleeps = "cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep' || true"
	if got := outputOf(t, sb, sleeps); got != "4\n" {
		t.Errorf("sleeps before EndUser: %q", got)
	}
	if err := sb.EndUser(t.Context(), uint32(os.Getuid())); err != nil {
		t.Fatal(err)
	}
	if got := outputOf(t, sb, sleeps); got != "1\n" {
		t.Errorf("sleeps after EndUser: %q", got)
	}
	if err := sb.EndAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Wait(); err != nil {
		t.Error(err)
	}
}

func TestRootlessLimitsInside(t *testing.T) {
	p, root, _ := rootless(t)
	sb, err := p.Create(t.Context(), sandbox.Spec{
		Root: root, Mounts: []sandbox.Mount{{Target: "/global", Writable: true, Size: 1 << 20, Mode: 0o1777}},
		Limits: sandbox.Limits{Processes: 40, OpenFiles: 64},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := outputOf(t, sb, "ulimit -n"); got != "64\n" {
		t.Errorf("open files: %q", got)
	}
	if got := outputOf(t, sb, "ulimit -n 65 2>/dev/null && echo raised || echo refused"); got != "refused\n" {
		t.Errorf("a higher limit of open files: %q", got)
	}
	got := outputOf(t, sb, `perl -e '$n = 0; while ($n < 200) { my $p = fork; last unless defined $p; if (!$p) { sleep 1000; exit } $n++; push @p, $p } kill 9, @p; print $n'`)
	var n int
	if _, err := fmt.Sscan(got, &n); err != nil || n < 5 || n >= 40 {
		t.Errorf("%q processes were started, the limit is 40", got)
	}
	if got := outputOf(t, sb, "head -c 2000000 /dev/zero > /global/big 2>/dev/null; stat -c %s /global/big"); len(strings.TrimSpace(got)) > 7 || strings.TrimSpace(got) > "1048576" {
		t.Errorf("%s bytes fit into a file system of 1048576", got)
	}
}

func TestRootlessEndOfSandbox(t *testing.T) {
	p, root, dir := rootless(t)
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	pr, err := sb.Start(t.Context(), ourCommand(io.Discard, "/bin/sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if len(sandboxtest.Processes(dir)) < 2 {
		t.Errorf("processes: %+v", sandboxtest.Processes(dir))
	}
	if err := syscall.Kill(sentry(t, dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := pr.Wait(); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("Wait: %v", err)
	}
	if err := sb.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if left := sandboxtest.Processes(dir); len(left) > 0 {
		t.Errorf("left after Close: %+v", left)
	}
}

func TestRootlessCreateCanBeCancelled(t *testing.T) {
	p, root, dir := rootless(t)
	started := 0
	// Cancel later and later, until one start completes.
	for after := 0; started == 0 && after < 1000 && !t.Failed(); after += 1 + after/4 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(after)*10*time.Millisecond)
		if sb, err := p.Create(ctx, sandbox.Spec{Root: root}); err == nil {
			started++
			if err := sb.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		cancel()
		if left := sandboxtest.Processes(dir); len(left) > 0 {
			t.Errorf("left after %d: %+v", after, left)
		}
	}
	if started == 0 {
		t.Error("no sandbox has started")
	}
}

func TestRootlessSweepAfterKill(t *testing.T) {
	notRoot(t)
	sandboxtest.SweepAfterKill(t, 10, start)
}
