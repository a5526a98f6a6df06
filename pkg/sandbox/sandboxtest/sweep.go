package sandboxtest

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
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
		for _, name := range died {
			if strings.HasSuffix(name, ".lock") {
				continue // shared by all instances; the last one removes it
			}
			swept(t, filepath.Join(run, name))
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
	if err != nil {
		t.Fatal(err)
	}
	second, _ := open(t, run)
	if got := Output(t, sb, "echo alive"); got != "alive\n" {
		t.Errorf("output %q", got)
	}
	if err := second.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := Output(t, sb, "echo alive"); got != "alive\n" {
		t.Errorf("output %q", got)
	}
}

// killTarget starts a service on dir and kills it some time after it is ready.
func killTarget(t *testing.T, exe, dir string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	target := exec.Command(self)
	target.Env = append(os.Environ(), targetEnv+"="+dir, BinaryEnv+"="+exe)
	out, err := target.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Errorf("the target prints %q", lines.Text())
	}
	time.Sleep(after)
	if err := target.Process.Kill(); err != nil {
		t.Error(err)
	}
	for lines.Scan() {
		t.Errorf("the target prints %q", lines.Text())
	}
	_ = target.Wait() // "signal: killed"
}

// Instances returns the directories of services below their common directory.
func Instances(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// swept fails the test if anything of an instance is left.
func swept(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("left: the directory %s", dir)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), dir) {
		t.Errorf("left: mounts in %s (%v)", dir, err)
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, filepath.Base(dir)) {
			t.Errorf("left: the cgroup %s", path)
		}
		return nil
	})
	// A command that was not in its cgroup yet during the sweep ends by itself
	// when it finds that the cgroup is gone. This process must reap the dead: it
	// is the next subreaper above their parent.
	deadline := time.Now().Add(5 * time.Second)
	for {
		reapAll()
		left := Processes(dir)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left: the processes %+v", left)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func reapAll() {
	for {
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			return
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
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(b), dir) {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		found = append(found, Process{pid, strings.ReplaceAll(string(b), "\x00", " ")})
	}
	return found
}
