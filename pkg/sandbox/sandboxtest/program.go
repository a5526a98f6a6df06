package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// testPrograms tests programs in one sandbox.
func testPrograms(t *testing.T, open Open) {
	const secret = "key-that-only-the-host-knows"
	t.Setenv("DREAMCORE_TEST_KEY", secret)
	r := newRig(t, open)
	r.warm(t)
	sb := r.create(t, r.spec())
	t.Run("streams", func(t *testing.T) { testStreams(t, sb) })
	t.Run("terminal", func(t *testing.T) { testTerminal(t, sb) })
	t.Run("exit", func(t *testing.T) { testExit(t, sb) })
	t.Run("identity", func(t *testing.T) { testIdentity(t, sb) })
	t.Run("failure to start", func(t *testing.T) { testStartFailure(t, sb) })
	t.Run("signals", func(t *testing.T) { testSignals(t, sb) })
	t.Run("end of all", func(t *testing.T) { testEndAll(t, sb) })
	t.Run("end of a user", func(t *testing.T) { testEndUser(t, sb) })
	t.Run("clean", func(t *testing.T) { testClean(t, sb) })
	t.Run("reach", func(t *testing.T) { testReach(t, sb) })
	t.Run("isolation", func(t *testing.T) { testIsolation(t, sb, secret) })
	t.Run("escapes", func(t *testing.T) { testEscapes(t, sb) })
}

func testExit(t *testing.T, sb sandbox.Sandbox) {
	for _, code := range []int{0, 1, 2, 100, 128, 137, 255} {
		if got := run(t, sb, script(fmt.Sprintf("exit %d", code))).exit; got != (sandbox.Exit{Code: code}) {
			t.Errorf("exit %d: %+v", code, got)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGABRT, syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGPIPE, syscall.SIGTERM} {
		if got := run(t, sb, script(fmt.Sprintf("kill -%d $$", sig))).exit; got != killed(sig) {
			t.Errorf("%v: %+v", sig, got)
		}
	}
	t.Run("Wait may be called again, and concurrently", func(t *testing.T) {
		p := start(t, sb, script("exit 4"))
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if exit, err := p.Wait(); err != nil || exit.Code != 4 {
					t.Errorf("exit %+v, %v", exit, err)
				}
			})
		}
		all.Wait()
	})
}

func testIdentity(t *testing.T, sb sandbox.Sandbox) {
	t.Run("the environment is the one given", func(t *testing.T) {
		env := []string{"PATH=/bin:/usr/bin", "EMPTY=", "TEXT=ein Wort\nund = noch 世界"}
		r := run(t, sb, sandbox.Command{Args: []string{"env", "-0"}, Env: env, UID: UID, GID: GID})
		got := strings.Split(strings.TrimSuffix(r.out, "\x00"), "\x00")
		if !slices.Equal(got, env) {
			t.Errorf("environment %q", got)
		}
		if r := run(t, sb, sandbox.Command{Args: []string{"/usr/bin/env"}, UID: UID, GID: GID}); r.out != "" {
			t.Errorf("without an environment: %q", r.out)
		}
	})
	t.Run("arguments arrive as they are", func(t *testing.T) {
		args := []string{"", " ", "a b", "$HOME", "'\"\\", "\n", "世界", "-n"}
		r := run(t, sb, sandbox.Command{Args: append([]string{"/usr/bin/printf", "<%s>"}, args...)})
		if want := "<" + strings.Join(args, "><") + ">"; r.out != want {
			t.Errorf("arguments %q", r.out)
		}
	})
	t.Run("user and group are the ones given, with no others", func(t *testing.T) {
		prints(t, sb, "id -u; id -g; id -G", fmt.Sprintf("%d\n%d\n%d\n", UID, GID, GID))
		status := sh(t, sb, "cat /proc/self/status")
		for _, set := range []string{"CapInh", "CapPrm", "CapEff"} {
			if !strings.Contains(status, set+":\t0000000000000000") {
				t.Errorf("%s is not empty:\n%s", set, status)
			}
		}
	})
	t.Run("the working directory is / or the one given", func(t *testing.T) {
		prints(t, sb, "pwd", "/\n")
		cmd := script("pwd")
		cmd.Dir = "/usr/bin"
		if r := run(t, sb, cmd); r.out != "/usr/bin\n" {
			t.Errorf("pwd: %q", r.out)
		}
	})
	t.Run("open files are limited", func(t *testing.T) {
		prints(t, sb, "ulimit -n", fmt.Sprintf("%d\n", sandbox.DefaultOpenFiles))
	})
}

func testStartFailure(t *testing.T, sb sandbox.Sandbox) {
	tests := map[string]struct {
		cmd  sandbox.Command
		want string // in the error
	}{
		"missing program":            {sandbox.Command{Args: []string{"/no/such/program"}}, "/no/such/program"},
		"name not in PATH":           {sandbox.Command{Args: []string{"nosuchname"}, Env: []string{"PATH=/bin"}}, "nosuchname"},
		"name without PATH":          {sandbox.Command{Args: []string{"sh"}}, "sh"},
		"directory":                  {sandbox.Command{Args: []string{"/usr"}}, "/usr"},
		"file that is not a program": {sandbox.Command{Args: []string{"/etc/passwd"}}, "/etc/passwd"},
		"missing directory":          {sandbox.Command{Args: []string{"/bin/true"}, Dir: "/no/such/dir"}, "/no/such/dir"},
		"directory is a file":        {sandbox.Command{Args: []string{"/bin/true"}, Dir: "/etc/passwd"}, "/etc/passwd"},
		"no arguments":               {sandbox.Command{}, "no program"},
		"empty name":                 {sandbox.Command{Args: []string{""}}, ""},
		"NUL in an argument":         {sandbox.Command{Args: []string{"/bin/true", "a\x00b"}}, ""},
		"argument list too long":     {sandbox.Command{Args: []string{"/bin/true", strings.Repeat("x", 3<<20)}}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.cmd.UID, test.cmd.GID = UID, GID
			p, err := sb.Start(bounded(t), test.cmd)
			if err == nil {
				exit, werr := wait(t, p)
				t.Fatalf("it started: exit %+v, %v", exit, werr)
			}
			if errors.Is(err, sandbox.ErrLost) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Start: %v", err)
			}
			prints(t, sb, "echo fine", "fine\n")
		})
	}
	t.Run("context that has ended", func(t *testing.T) {
		if _, err := sb.Start(ended(t), script("true")); !errors.Is(err, context.Canceled) {
			t.Errorf("Start: %v", err)
		}
	})
}

func testSignals(t *testing.T, sb sandbox.Sandbox) {
	t.Run("a signal reaches the program, which may handle it", func(t *testing.T) {
		p, out := begin(t, sb, "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.02; done")
		noError(t, "Signal", p.Signal(syscall.SIGTERM))
		exits(t, p, sandbox.Exit{Code: 7})
		if out.String() != "ready\ngot\n" {
			t.Errorf("output %q", out.String())
		}
		noError(t, "Signal after the end", p.Signal(syscall.SIGTERM))
	})
	// It is ready when all four run: a group that is forking may escape a signal.
	group := "sleep 1001 & (sleep 1002 & sleep 1003) & sleep 1004 & " +
		"while [ $(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c '^100[1-4]$') -lt 4 ]; do sleep 0.02; done; echo ready; wait"
	t.Run("a signal reaches the whole group", func(t *testing.T) {
		p, _ := begin(t, sb, group)
		noError(t, "Signal", p.Signal(syscall.SIGTERM))
		exits(t, p, killed(syscall.SIGTERM))
		gone(t, sb)
	})
	t.Run("the end of the context kills the whole group", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := newLine()
		cmd := script("trap '' TERM INT HUP; " + group)
		cmd.Stdout = out
		p, err := sb.Start(ctx, cmd)
		must(t, err)
		await(t, out.seen, "the program")
		cancel()
		exits(t, p, killed(syscall.SIGKILL))
		gone(t, sb)
	})
	t.Run("the end of a context kills no other program", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		other := newLine()
		cmd := script("echo ready; read x; echo survived")
		in, give, err := os.Pipe()
		must(t, err)
		defer in.Close()
		cmd.Stdin, cmd.Stdout = in, other
		p := start(t, sb, cmd)
		await(t, other.seen, "the program")
		victim, err := sb.Start(ctx, script("sleep 1000"))
		must(t, err)
		cancel()
		_, _ = wait(t, victim)
		_ = give.Close()
		if _, err := wait(t, p); err != nil || other.String() != "ready\nsurvived\n" {
			t.Errorf("%v, output %q", err, other.String())
		}
	})
}

// gone waits until PID 1 is the only process inside.
func gone(t *testing.T, sb sandbox.Sandbox) {
	t.Helper()
	ctx := bounded(t)
	for got := sh(t, sb, processes); got != ""; got = sh(t, sb, processes) {
		if ctx.Err() != nil {
			t.Fatalf("still there: %s", got)
		}
	}
}

func testEndAll(t *testing.T, sb sandbox.Sandbox) {
	t.Run("every process ends, even in its own session", func(t *testing.T) {
		p, _ := begin(t, sb, "trap '' TERM HUP; setsid sh -c 'setsid sleep 1001 & sleep 1002' & (setsid nohup sleep 1003 >/dev/null 2>&1 &) ; echo ready; sleep 1004")
		endAll(t, sb)
		exits(t, p, killed(syscall.SIGKILL))
	})
	t.Run("a fork bomb ends", func(t *testing.T) {
		p, _ := begin(t, sb, "echo ready; f() { f & f & }; f")
		endAll(t, sb)
		_, _ = wait(t, p)
	})
	t.Run("without processes", func(t *testing.T) {
		for range 2 {
			noError(t, "EndAll", sb.EndAll(bounded(t)))
		}
	})
	t.Run("orphans are reaped", func(t *testing.T) {
		sh(t, sb, "for i in $(seq 30); do (true & true &); done")
		gone(t, sb)
	})
}

func testEndUser(t *testing.T, sb sandbox.Sandbox) {
	const other = UID + 500
	living := func(t *testing.T) {
		t.Helper()
		if got := runAs(t, sb, other, "kill -0 $(cat /tmp/other.pid) && echo lives"); got != "lives\n" {
			t.Errorf("the program of another user: %q", got)
		}
	}
	cmd := script("echo $$ >/tmp/other.pid; echo ready; exec sleep 1005")
	cmd.UID = other
	out := newLine()
	cmd.Stdout = out
	neighbour := start(t, sb, cmd)
	await(t, out.seen, "the program of another user")
	t.Run("every process of the user ends, even in its own session", func(t *testing.T) {
		p, _ := begin(t, sb, "trap '' TERM HUP; setsid sh -c 'setsid sleep 1001 & sleep 1002' & (setsid nohup sleep 1003 >/dev/null 2>&1 &) ; echo ready; sleep 1004")
		must(t, sb.EndUser(bounded(t), UID))
		exits(t, p, killed(syscall.SIGKILL))
		if got := strings.Count(sh(t, sb, processes), "\n"); got != 1 {
			t.Errorf("%d processes are left, want the other user's", got)
		}
		living(t)
	})
	t.Run("a fork bomb ends", func(t *testing.T) {
		p, _ := begin(t, sb, "echo ready; f() { f & f & }; f")
		must(t, sb.EndUser(bounded(t), UID))
		_, _ = wait(t, p)
		living(t)
	})
	t.Run("without processes", func(t *testing.T) {
		noError(t, "EndUser", sb.EndUser(bounded(t), UID))
		living(t)
	})
	t.Run("not root alone", func(t *testing.T) {
		if err := sb.EndUser(bounded(t), 0); err == nil {
			t.Error("the processes of root were ended")
		}
		living(t)
	})
	t.Run("the end of all ends the others too", func(t *testing.T) {
		endAll(t, sb)
		exits(t, neighbour, killed(syscall.SIGKILL))
		runAs(t, sb, other, "rm -f /tmp/other.pid")
	})
}

func testIsolation(t *testing.T, sb sandbox.Sandbox, secret string) {
	t.Run("the network is a separate loopback", func(t *testing.T) {
		dev := sh(t, sb, "cat /proc/net/dev")
		for _, l := range strings.Split(strings.TrimSpace(dev), "\n")[2:] {
			if name, _, _ := strings.Cut(strings.TrimSpace(l), ":"); name != "lo" {
				t.Errorf("an interface %q exists", name)
			}
		}
		ours, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer ours.Close()
		_, port, _ := net.SplitHostPort(ours.Addr().String())
		for _, to := range []string{"1.1.1.1/53", "169.254.169.254/80", "127.0.0.1/" + port} {
			cmd := script("exec 3<>/dev/tcp/" + to)
			cmd.Args[0] = "/bin/bash"
			if r := run(t, sb, cmd); r.exit.Code == 0 {
				t.Errorf("connected to %s", to)
			}
		}
	})
	t.Run("the host's abstract sockets cannot be reached", func(t *testing.T) {
		l, err := net.Listen("unix", fmt.Sprintf("@dreamcore-test-%d", os.Getpid()))
		must(t, err)
		defer l.Close()
		connect := fmt.Sprintf(`perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0) or die; exit(connect(S,pack_sockaddr_un("\0dreamcore-test-%d")) ? 0 : 9)'`, os.Getpid())
		if r := run(t, sb, script(connect)); r.exit.Code != 9 {
			t.Errorf("connect: exit %+v, %s", r.exit, r.err)
		}
	})
	t.Run("no secrets of the host", func(t *testing.T) {
		for _, uid := range []uint32{UID, 0} {
			out := runAs(t, sb, uid, "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; env; grep -rs key-that-only /etc /root /home /run /data /tmp /.dreamcore/bin; cat /etc/shadow; ls /root; true")
			if strings.Contains(out, secret) || strings.Contains(out, "root:*") || strings.Contains(out, "root:$") {
				t.Errorf("user %d sees %q", uid, out)
			}
		}
		host, err := os.Hostname()
		must(t, err)
		if got := sh(t, sb, "cat /proc/sys/kernel/hostname"); strings.TrimSpace(got) == host {
			t.Errorf("the host name inside is that of the host: %q", host)
		}
	})
	t.Run("the root cannot be written, not even by root", func(t *testing.T) {
		for _, uid := range []uint32{UID, 0} {
			out := runAs(t, sb, uid, "for d in / /usr /usr/bin /etc /.dreamcore; do touch $d/x 2>/dev/null && echo $d; done; echo x >>/usr/bin/env && echo env; chmod 777 /etc/passwd && echo passwd; true")
			if out != "" {
				t.Errorf("user %d can write %q", uid, out)
			}
		}
	})
	t.Run("PID 1 is protected", func(t *testing.T) {
		if r := run(t, sb, script("kill -9 1")); r.exit.Code == 0 {
			t.Error("the ordinary user may signal PID 1")
		}
		r := run(t, sb, script("ls /proc/1/fd /proc/1/root /proc/1/cwd; cat /proc/1/mem /proc/1/environ"))
		if r.out != "" {
			t.Errorf("of PID 1 one can read %q", r.out)
		}
	})
	t.Run("devices of the host do not exist", func(t *testing.T) {
		for _, l := range strings.Fields(sh(t, sb, "cd /dev && ls")) {
			if strings.HasPrefix(l, "sd") || strings.HasPrefix(l, "vd") || strings.HasPrefix(l, "nvme") || slices.Contains([]string{"mem", "kvm", "kmsg", "port"}, l) {
				t.Errorf("there is %s", filepath.Join("/dev", l))
			}
		}
	})
}
