package runc_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		beVictim(dir)
	}
	goleak.VerifyTestMain(m)
}

// need skips a test where sandboxes of runc cannot be.
func need(t testing.TB) {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	sandboxtest.Need(t, runc.Version() != "", "runc in the test program: run scripts/build.sh")
}

// open makes a provider with its state in dir and the host's programs as root.
func open(t testing.TB, exe, dir string) (*engine.Provider, sandbox.Root) {
	t.Helper()
	root, err := rootfs.Host(t.TempDir(), sandboxtest.UID, sandboxtest.GID)
	if err != nil {
		t.Fatal(err)
	}
	p, err := runc.New(t.Context(), config(exe, dir))
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

func config(exe, dir string) runc.Config {
	return runc.Config{Exe: exe, Dir: dir, UID: sandboxtest.UID, GID: sandboxtest.GID}
}

func TestSuite(t *testing.T) {
	need(t)
	exe := sandboxtest.Binary(t)
	sandboxtest.Suite(t, func(t testing.TB, dir string) (sandbox.Provider, sandbox.Root) { return open(t, exe, dir) })
}

func TestSandboxRunsUnderRunc(t *testing.T) {
	need(t)
	// Nobody but root comes through this directory.
	private := t.TempDir()
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	p, root := open(t, sandboxtest.Binary(t), filepath.Join(private, "run"))
	if p.Name() != "runc" {
		t.Errorf("the provider is called %q", p.Name())
	}
	source := filepath.Join(private, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(source, "text"), []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Mounts: []sandbox.Mount{{Source: source, Target: "/global"}}})
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	if got := output(t, sb, "cat /proc/version /global/text"); got != string(host)+"of the host" {
		t.Errorf("inside: %q", got)
	}
}

func TestCreateLeavesTheRootAsItIs(t *testing.T) {
	need(t)
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

func TestFailedStartTellsWhatTheEngineSaid(t *testing.T) {
	need(t)
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

func TestNewRefusesWhatCannotWork(t *testing.T) {
	need(t)
	private := filepath.Join(t.TempDir(), "dreamcore")
	if err := os.WriteFile(private, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		cfg  runc.Config
		code dreamcore.Code
	}{
		"relative program":       {config("dreamcore", t.TempDir()), dreamcore.CodeInternal},
		"relative directory":     {config("/bin/true", "run"), dreamcore.CodeInternal},
		"nothing":                {runc.Config{}, dreamcore.CodeInternal},
		"program for root alone": {config(private, t.TempDir()), dreamcore.CodeSetup},
		"root as the user":       {runc.Config{Exe: "/bin/true", Dir: t.TempDir(), GID: 1}, dreamcore.CodeInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := runc.New(t.Context(), test.cfg)
			if err == nil {
				t.Fatalf("it went well; Close: %v", p.Close(t.Context()))
			}
			if dreamcore.CodeOf(err) != test.code {
				t.Errorf("New: %v", err)
			}
		})
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

// tree lists the files of a directory with their modes.
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
