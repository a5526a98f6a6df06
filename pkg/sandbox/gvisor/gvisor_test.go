package gvisor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m, start) }

// start returns a provider and a root for the current user.
func start(ctx context.Context, exe, run, rootDir string) (sandbox.Provider, sandbox.Root, error) {
	uid, gid := uint32(sandboxtest.UID), uint32(sandboxtest.GID)
	if os.Geteuid() != 0 {
		uid, gid = uint32(os.Getuid()), uint32(os.Getgid())
	}
	root, err := rootfs.Host(rootDir, uid, gid)
	if err != nil {
		return nil, root, err
	}
	p, err := gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: run})
	return p, root, err
}

// opener adapts start for the test suite.
func opener(t testing.TB) sandboxtest.Open { return sandboxtest.Opener(sandboxtest.Binary(t), start) }

// open returns a provider with its state in dir and the host's programs as root.
func open(t testing.TB, exe, dir string) (*engine.Provider, sandbox.Root) {
	t.Helper()
	p, root := sandboxtest.Opener(exe, start)(t, dir)
	return p.(*engine.Provider), root
}

func TestSuite(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	sandboxtest.Suite(t, opener(t))
}

func TestSandboxRunsUnderGVisor(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	if p.Name() != "gvisor" {
		t.Errorf("provider name: %q", p.Name())
	}
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if got := sandboxtest.Output(t, sb, "cat /proc/version"); !strings.Contains(got, "gvisor") {
		t.Errorf("/proc/version: %q", got)
	}
}

func TestCreateDoesNotChangeTheRoot(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	sandboxtest.CreateLeavesTheRootAsItIs(t, opener(t))
}

func TestEngineCrashIsReported(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	pr, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/bin/sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(sentry(t, p.Dir()), syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	if _, err := pr.Wait(); !errors.Is(err, sandbox.ErrLost) || !strings.Contains(err.Error(), "gVisor crashed: SIGABRT") {
		t.Errorf("Wait: %v", err)
	}
}

func TestFailedStartReportsTheEnginesError(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	missing := filepath.Join(t.TempDir(), "not-there")
	_, err := p.Create(t.Context(), sandbox.Spec{Root: root, Mounts: []sandbox.Mount{{Source: missing, Target: "/global"}}})
	if err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("Create: %v", err)
	}
	if lines := strings.Count(err.Error(), "\n"); lines > 12 {
		t.Errorf("the error has %d lines: %v", lines, err)
	}
}

func TestNewRefusesRelativePaths(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	for _, cfg := range []gvisor.Config{{Exe: "dreamcore", Dir: t.TempDir()}, {Exe: "/bin/true", Dir: "run"}, {}} {
		if p, err := gvisor.New(t.Context(), cfg); err == nil {
			t.Errorf("New(%+v) succeeded; Close: %v", cfg, p.Close(t.Context()))
		}
	}
}

// sentry returns the process id of the sentry of the only sandbox in dir.
func sentry(t *testing.T, dir string) int {
	t.Helper()
	for _, p := range sandboxtest.Processes(dir) {
		if strings.Contains(p.Command, "runsc-sandbox") {
			return p.PID
		}
	}
	t.Fatal("no sentry is running")
	return 0
}

func TestProgramsSeeTheLimitAsTotalMemory(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	for _, mib := range []int64{0, 300} {
		spec := sandbox.Spec{Root: root, Limits: sandbox.Limits{MemoryBytes: mib << 20}}
		sb, err := p.Create(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%d kB\n", spec.Limits.WithDefaults().MemoryBytes>>10)
		if got := sandboxtest.Output(t, sb, "awk '/MemTotal/ { print $2, $3 }' /proc/meminfo"); got != want {
			t.Errorf("with a limit of %d MiB, MemTotal is %q, want %q", mib, got, want)
		}
		if err := sb.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestSandboxesStartAfterTheProgramFileIsReplaced(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	raw, err := os.ReadFile(sandboxtest.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "dreamcore")
	if err := os.WriteFile(exe, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	p, root := sandboxtest.Opener(exe, start)(t, t.TempDir())
	for what, change := range map[string]func() error{
		"removed": func() error { return os.RemoveAll(exe) },
		"replaced": func() error { // like an installer: a new file, not an overwritten one
			return errors.Join(os.RemoveAll(exe), os.WriteFile(exe, []byte("#!/bin/sh\nexit 1\n"), 0o755))
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
		if err != nil {
			t.Fatalf("with the program %s: %v", what, err)
		}
		if got := sandboxtest.Output(t, sb, "echo alive"); got != "alive\n" {
			t.Errorf("with the program %s: %q", what, got)
		}
		if err := sb.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(exe); err != nil {
			t.Fatal(err)
		}
	}
}
