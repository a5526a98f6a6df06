package pid1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// roleEnv makes the test program act as a supervisor.
const roleEnv = "DREAMCORE_TEST_PID1"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		// /proc must show the processes of the new namespace.
		if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := Serve(Stdio{In: os.Stdin, Out: os.Stdout}, sandbox.Relay{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Descriptors that this process inherited must not reach the supervisor.
	if err := unix.CloseRange(3, 1<<20, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// peer is a real supervisor that runs as PID 1 of a namespace of its own.
type peer struct {
	*Client
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{} // closed when it has ended with err
	err    error
}

func startSupervisor(t *testing.T) *peer {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root, for namespaces")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &peer{cmd: exec.Command(self), ended: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), roleEnv+"=1", "GORACE=atexit_sleep_ms=0")
	s.cmd.Stderr = &s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdin, s.cmd.Stdout = theirIn, theirOut
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	if s.Client, err = NewClient(Stdio{In: out, Out: in}); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		s.err = s.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = s.Close()
		select {
		case <-s.ended:
		case <-time.After(20 * time.Second):
			t.Error("the supervisor survived its connection")
			_ = s.cmd.Process.Kill()
			<-s.ended
		}
		if s.err != nil || s.stderr.Len() > 0 {
			t.Errorf("the supervisor: %v, %s", s.err, s.stderr.String())
		}
	})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestServeRefusesToRunAlongsideOthers runs the supervisor as process 2 of a
// namespace, where killing every process cannot reach the host.
func TestServeRefusesToRunAlongsideOthers(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, for namespaces")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `sleep 1000 & "$0" </dev/null; echo "exit $?"; kill -0 $! && echo neighbour is alive; kill -9 $!`, self)
	cmd.Env = append(os.Environ(), roleEnv+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "runs as process 1 only") || !strings.Contains(string(out), "exit 1\nneighbour is alive") {
		t.Errorf("%v, %s", err, out)
	}
}

func shell(script string) sandbox.Command {
	return sandbox.Command{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, UID: 65534, GID: 65534}
}

// run runs a shell script to its end.
func (s *peer) run(t *testing.T, script string) (string, sandbox.Exit) {
	t.Helper()
	var out bytes.Buffer
	cmd := shell(script)
	cmd.Stdout = &out
	p, err := s.Start(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), exit
}

const others = `for d in /proc/[0-9]*; do p=${d#/proc/}; [ "$p" = 1 ] || [ "$p" = $$ ] || cat $d/stat; done 2>/dev/null; true`

func TestSupervisorRunsPrograms(t *testing.T) {
	s := startSupervisor(t)
	in := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	var out bytes.Buffer
	cmd := shell("id -u; id -G; exec cat")
	cmd.Stdin, cmd.Stdout = bytes.NewReader(in), &out
	p, err := s.Start(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit != (sandbox.Exit{}) || out.String() != "65534\n65534\n"+string(in) {
		t.Errorf("exit %+v, %v, %d bytes", exit, err, out.Len())
	}
	if _, exit := s.run(t, "exit 9"); exit != (sandbox.Exit{Code: 9}) {
		t.Errorf("exit %+v", exit)
	}
	if _, exit := s.run(t, "kill -SEGV $$"); exit != (sandbox.Exit{Code: 139, Signal: syscall.SIGSEGV}) {
		t.Errorf("exit %+v", exit)
	}
}

func TestSupervisorLeaksNoDescriptor(t *testing.T) {
	s := startSupervisor(t)
	out, _ := s.run(t, "ls -l /proc/self/fd")
	if n := strings.Count(out, " -> "); n != 4 { // the last is the directory that ls reads
		t.Errorf("descriptors of a program: %s", out)
	}
}

func TestSupervisorEndsEveryProcess(t *testing.T) {
	s := startSupervisor(t)
	out, w := io.Pipe()
	cmd := shell("trap '' TERM HUP; setsid sleep 1001 & (setsid sleep 1002 &) ; echo ready; sleep 1003")
	cmd.Stdout = w
	p, err := s.Start(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := s.EndAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := s.run(t, others); left != "" {
		t.Errorf("left: %s", left)
	}
	if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func TestSupervisorReapsOrphans(t *testing.T) {
	s := startSupervisor(t)
	s.run(t, "for i in 1 2 3 4 5 6 7 8; do (true & true & (true &)); done")
	deadline := time.Now().Add(10 * time.Second)
	for {
		left, _ := s.run(t, others)
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %s", left)
		}
	}
}

func TestSupervisorEndsEverythingWhenDisconnected(t *testing.T) {
	s := startSupervisor(t)
	out, w := io.Pipe()
	cmd := shell("trap '' TERM HUP; setsid sleep 1001 & echo ready; sleep 1002")
	cmd.Stdout = w
	p, err := s.Start(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if _, err := p.Wait(); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("Wait: %v", err)
	}
	select {
	case <-s.ended: // the kernel ends a namespace with its PID 1
	case <-time.After(20 * time.Second):
		t.Error("the supervisor still runs")
	}
}

func TestSupervisorKillsAProgramWhoseStreamIsCut(t *testing.T) {
	s := startSupervisor(t)
	p, err := s.Start(t.Context(), shell("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	_ = p.(*process).stream.Close()
	if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

func TestSupervisorReportsStartErrors(t *testing.T) {
	s := startSupervisor(t)
	file := "/etc/passwd"
	tests := []struct {
		cmd  sandbox.Command
		want string
	}{
		{sandbox.Command{Args: []string{"/no/such"}}, "/no/such: no such file or directory"},
		{sandbox.Command{Args: []string{"nosuch"}, Env: []string{"PATH=/bin:/usr/bin"}}, "nosuch: not found in PATH"},
		{sandbox.Command{Args: []string{"/bin/true"}, Dir: "/no/dir"}, "working directory: stat /no/dir: no such file or directory"},
		{sandbox.Command{Args: []string{"/bin/true"}, Dir: file}, "working directory: /etc/passwd is not a directory"},
		{sandbox.Command{Args: []string{file}}, "/etc/passwd: permission denied"},
		{sandbox.Command{Args: []string{"/bin/true", strings.Repeat("x", maxOrder)}}, "the limit is"},
	}
	for _, test := range tests {
		if _, err := s.Start(t.Context(), test.cmd); err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, sandbox.ErrLost) {
			t.Errorf("Start: %v, want %q", err, test.want)
		}
	}
	if _, err := s.Start(t.Context(), sandbox.Command{}); err == nil {
		t.Error("Start of an empty command succeeded")
	}
	// Orders that the client's own checks would refuse.
	for _, o := range []order{{Op: opStart}, {Op: "dance"}} {
		if err := s.do(t.Context(), o); err == nil || errors.Is(err, sandbox.ErrLost) {
			t.Errorf("order %+v: %v", o, err)
		}
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSignalOfAnEndedProgramIsNoError(t *testing.T) {
	s := startSupervisor(t)
	p, err := s.Start(t.Context(), shell("true"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestContextKillsAProgramThatDoesNotReadItsInput(t *testing.T) {
	s := startSupervisor(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in := &endless{many: make(chan struct{})}
	cmd := shell("trap '' TERM; sleep 1000")
	cmd.Stdin = in
	p, err := s.Start(ctx, cmd)
	if err != nil {
		t.Fatal(err)
	}
	<-in.many // the pipe and the yamux window are full
	cancel()
	if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// endless is an endless input that closes many once a few buffers were read.
type endless struct {
	n    int
	many chan struct{}
}

func (e *endless) Read(p []byte) (int, error) {
	if e.n += len(p); e.n >= 250_000 && e.n-len(p) < 250_000 {
		close(e.many)
	}
	return len(p), nil
}

func TestLookPath(t *testing.T) {
	tests := []struct {
		name string
		env  []string
		want string
	}{
		{"/bin/sh", nil, "/bin/sh"},
		{"./here", []string{"PATH=/bin"}, "./here"},
		{"sh", []string{"PATH=/nowhere:/bin:/usr/bin"}, "/bin/sh"},
		{"sh", []string{"PATH="}, ""},
		{"sh", nil, ""},
		{"", []string{"PATH=/bin"}, ""},
		{"passwd", []string{"PATH=/etc"}, ""}, // not executable
		{"bin", []string{"PATH=/usr"}, ""},    // a directory
	}
	for _, test := range tests {
		got, err := lookPath(test.name, test.env)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("lookPath(%q, %q) = %q, %v", test.name, test.env, got, err)
		}
	}
}
