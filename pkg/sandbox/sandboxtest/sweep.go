package sandboxtest

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Start creates a provider from the program exe, with its state in the directory
// run, and a root for its sandboxes in the directory root.
type Start func(ctx context.Context, exe, run, root string) (sandbox.Provider, sandbox.Root, error)

// Opener returns an Open that closes the provider at the end of the test.
func Opener(exe string, start Start) Open {
	return func(t testing.TB, dir string) (sandbox.Provider, sandbox.Root) {
		t.Helper()
		p, root, err := start(t.Context(), exe, dir, t.TempDir())
		must(t, err)
		t.Cleanup(func() { noError(t, "Close", p.Close(context.WithoutCancel(t.Context()))) })
		return p, root
	}
}

// targetEnv turns a test program into a service that the test kills. Its value is
// the state directory of that service.
const targetEnv = "DREAMCORE_TEST_TARGET"

// Main is TestMain of an engine's package. SweepAfterKill needs it.
func Main(m *testing.M, start Start) {
	if dir := os.Getenv(targetEnv); dir != "" {
		fmt.Println("failed:", runTarget(dir, start))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// runTarget creates and closes sandboxes, two at a time, until it is killed.
func runTarget(dir string, start Start) error {
	ctx := context.Background()
	p, root, err := start(ctx, os.Getenv(BinaryEnv), filepath.Join(dir, "run"), filepath.Join(dir, "rootfs"))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	failed := make(chan error)
	for range 2 {
		go func() {
			for {
				if err := live(ctx, p, root); err != nil {
					failed <- err
				}
			}
		}()
	}
	return <-failed
}

// live creates a sandbox, runs a few programs in it, and closes it.
func live(ctx context.Context, p sandbox.Provider, root sandbox.Root) error {
	sb, err := p.Create(ctx, sandbox.Spec{Root: root})
	if err != nil {
		return err
	}
	for range 3 {
		cmd := sandbox.Command{Args: []string{"/bin/sleep", "1000"}, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
		if _, err := sb.Start(ctx, cmd); err != nil {
			return err
		}
	}
	return sb.Close(ctx)
}

// SweepAfterKill kills a service at a random moment, several times, and checks
// that the next service ends and removes everything that it left.
func SweepAfterKill(t *testing.T, rounds int, start Start) {
	exe, dir := Binary(t), t.TempDir()
	run := filepath.Join(dir, "run")
	for round := range rounds {
		killTarget(t, exe, dir, time.Duration(rand.IntN(400))*time.Millisecond)
		died := Instances(t, run)
		if len(died) == 0 {
			t.Fatalf("round %d: the target created nothing", round)
		}
		p, _, err := start(t.Context(), exe, run, t.TempDir())
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, path := range died {
			if !strings.HasSuffix(path, ".lock") { // shared by all instances; the last one removes it
				swept(t, path)
			}
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if left := Instances(t, run); len(left) > 0 {
			t.Errorf("round %d: left after Close: %q", round, left)
		}
	}
}

// SweepLeavesTheLivingAlone checks that a second service in the same directory
// does not affect a running one.
func SweepLeavesTheLivingAlone(t *testing.T, start Start) {
	exe, run := Binary(t), t.TempDir()
	open := Opener(exe, start)
	first, root := open(t, run)
	sb, err := first.Create(t.Context(), sandbox.Spec{Root: root})
	must(t, err)
	second, _ := open(t, run)
	prints(t, sb, "echo alive", "alive\n")
	noError(t, "Close", second.Close(t.Context()))
	prints(t, sb, "echo alive", "alive\n")
}

// killTarget starts a service on dir and kills it some time after it is ready.
func killTarget(t *testing.T, exe, dir string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	target := exec.Command(self)
	target.Env = append(os.Environ(), targetEnv+"="+dir, BinaryEnv+"="+exe)
	out, err := target.StdoutPipe()
	must(t, err)
	must(t, target.Start())
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Errorf("the target prints %q", lines.Text())
	}
	time.Sleep(after)
	noError(t, "kill", target.Process.Kill())
	for lines.Scan() {
		t.Errorf("the target prints %q", lines.Text())
	}
	_ = target.Wait() // "signal: killed"
}

// Instances returns the paths of what services have in their common directory.
func Instances(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var paths []string
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	return paths
}

// swept fails the test if anything of an instance is left.
func swept(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("left: the directory %s", dir)
	}
	if left := mounts(dir); len(left) > 0 {
		t.Errorf("left: the mounts %q", left)
	}
	if left := cgroups(func(path string) bool { return strings.Contains(path, filepath.Base(dir)) }); len(left) > 0 {
		t.Errorf("left: the cgroups %q", left)
	}
	// A command that was not in its cgroup yet during the sweep ends by itself
	// when it finds that the cgroup is gone. This process must reap the dead: it
	// is the next subreaper above their parent.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
		left := Processes(dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: the processes %+v", left)
		}
	}
}

// Process is a process of the host.
type Process struct {
	PID     int
	Command string // its arguments, with spaces between
}

// Processes returns the processes with a path in dir on their command line.
func Processes(dir string) []Process {
	var found []Process
	for pid, line := range procFiles("cmdline") {
		if strings.Contains(line, dir) {
			found = append(found, Process{pid, strings.ReplaceAll(line, "\x00", " ")})
		}
	}
	return found
}
