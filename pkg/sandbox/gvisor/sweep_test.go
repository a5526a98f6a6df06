package gvisor_test

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

	"github.com/notef-neighbor/dreamcore/pkg/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// victimEnv makes the test program a service that is about to be killed: it
// names the directory of its state.
const victimEnv = "DREAMCORE_TEST_VICTIM"

// beVictim makes and closes sandboxes, two at a time, until it is killed.
func beVictim(dir string) {
	ctx := context.Background()
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	root, err := rootfs.Host(filepath.Join(dir, "rootfs"), sandboxtest.UID, sandboxtest.GID)
	if err != nil {
		fail(err)
	}
	p, err := gvisor.New(ctx, gvisor.Config{Exe: os.Getenv(sandboxtest.BinaryEnv), Dir: filepath.Join(dir, "run")})
	if err != nil {
		fail(err)
	}
	fmt.Println("ready")
	loop := func() {
		for {
			sb, err := p.Create(ctx, sandbox.Spec{Root: root})
			if err != nil {
				fail(err)
			}
			for range 3 {
				cmd := sandbox.Command{Args: []string{"/bin/sleep", "1000"}, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
				if _, err := sb.Start(ctx, cmd); err != nil {
					fail(err)
				}
			}
			if err := sb.Close(ctx); err != nil {
				fail(err)
			}
		}
	}
	go loop()
	loop()
}

func TestSweepAfterKill(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	sweepAfterKill(t)
}

func sweepAfterKill(t *testing.T) {
	exe := sandboxtest.Binary(t)
	dir := t.TempDir()
	for round := range 10 {
		killVictim(t, exe, dir, time.Duration(rand.IntN(400))*time.Millisecond)
		died := instances(t, filepath.Join(dir, "run"))
		if len(died) == 0 {
			t.Fatalf("round %d: the victim made nothing", round)
		}
		p, err := gvisor.New(t.Context(), gvisor.Config{Exe: exe, Dir: filepath.Join(dir, "run")})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, name := range died {
			swept(t, filepath.Join(dir, "run", name))
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if left := instances(t, filepath.Join(dir, "run")); len(left) > 0 {
			t.Errorf("round %d: left after Close: %q", round, left)
		}
	}
}

func TestSweepLeavesTheLivingAlone(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	exe, dir := sandboxtest.Binary(t), t.TempDir()
	first, root := open(t, exe, dir)
	sb, err := first.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	second, err := gvisor.New(t.Context(), gvisor.Config{Exe: exe, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, sb, "echo alive"); got != "alive\n" {
		t.Errorf("output %q", got)
	}
	if err := second.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := output(t, sb, "echo alive"); got != "alive\n" {
		t.Errorf("output %q", got)
	}
}

// killVictim starts a service on dir and kills it some time after it is ready.
func killVictim(t *testing.T, exe, dir string, after time.Duration) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	victim := exec.Command(self)
	victim.Env = append(os.Environ(), victimEnv+"="+dir, sandboxtest.BinaryEnv+"="+exe)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	if !said.Scan() || said.Text() != "ready" {
		t.Errorf("the victim says %q", said.Text())
	}
	time.Sleep(after)
	if err := victim.Process.Kill(); err != nil {
		t.Error(err)
	}
	for said.Scan() {
		t.Errorf("the victim says %q", said.Text())
	}
	_ = victim.Wait() // "signal: killed"
}

func instances(t *testing.T, dir string) []string {
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

// swept fails the test when there is anything of an instance left.
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
	// A command that was not in its cgroup yet when the sweep came ends by
	// itself, when it finds that there is none. The dead are ours to reap: we
	// are the next reaper above their parent.
	deadline := time.Now().Add(5 * time.Second)
	for {
		reapAll()
		left := processesOf(dir)
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

type hostProcess struct {
	pid     int
	command string
}

// processesOf are the processes whose command line names something in dir.
func processesOf(dir string) []hostProcess {
	var found []hostProcess
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(b), dir) {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		found = append(found, hostProcess{pid, strings.ReplaceAll(string(b), "\x00", " ")})
	}
	return found
}
