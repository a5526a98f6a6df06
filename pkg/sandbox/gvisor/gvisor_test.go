package gvisor_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		beVictim(dir)
	}
	goleak.VerifyTestMain(m)
}

// open makes a provider with its state in dir and the host's programs as root.
func open(t testing.TB, exe, dir string) (*engine.Provider, sandbox.Root) {
	t.Helper()
	root, err := rootfs.Host(t.TempDir(), sandboxtest.UID, sandboxtest.GID)
	if err != nil {
		t.Fatal(err)
	}
	p, err := gvisor.New(t.Context(), gvisor.Config{Exe: exe, Dir: dir})
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

func TestSuite(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	exe := sandboxtest.Binary(t)
	sandboxtest.Suite(t, func(t testing.TB, dir string) (sandbox.Provider, sandbox.Root) { return open(t, exe, dir) })
}

func TestSandboxRunsUnderGVisor(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	if p.Name() != "gvisor" {
		t.Errorf("the provider is called %q", p.Name())
	}
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, sb, "cat /proc/version"); !strings.Contains(got, "gvisor") {
		t.Errorf("/proc/version: %q", got)
	}
}

func TestCreateLeavesTheRootAsItIs(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	before := tree(t, root.Path)
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Mounts: []sandbox.Mount{
		{Source: t.TempDir(), Target: "/data/users/u1/projects/p1"},
		{Source: t.TempDir(), Target: "/nobody/made/this"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, sb, "ls -d /data/users/u1/projects/p1 /nobody/made/this"); strings.Count(got, "\n") != 2 {
		t.Errorf("ls: %q", got)
	}
	if after := tree(t, root.Path); after != before {
		t.Errorf("the shared root has changed:\n%s\nbefore:\n%s", after, before)
	}
}

func TestCrashOfTheEngineIsTold(t *testing.T) {
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

func TestFailedStartTellsWhatTheEngineSaid(t *testing.T) {
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
			t.Errorf("New(%+v) went well; Close: %v", cfg, p.Close(t.Context()))
		}
	}
}

// output runs a shell script as root inside and returns what it prints.
func output(t *testing.T, sb sandbox.Sandbox, script string) string {
	t.Helper()
	var out bytes.Buffer
	p, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Fatalf("%s: %+v, %v, %s", script, exit, err, out.String())
	}
	return out.String()
}

// tree lists the files of a directory with their modes and owners.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err == nil {
			b.WriteString(fi.Mode().String() + " " + path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sentry is the process id of gVisor's kernel of the one sandbox in dir.
func sentry(t *testing.T, dir string) int {
	t.Helper()
	for _, p := range processesOf(dir) {
		if strings.Contains(p.command, "runsc-sandbox") {
			return p.pid
		}
	}
	t.Fatal("no sentry runs")
	return 0
}
