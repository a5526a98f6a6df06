package runc_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { sandboxtest.Main(m, start) }

func start(ctx context.Context, exe, run, rootDir string) (sandbox.Provider, sandbox.Root, error) {
	root, err := rootfs.Host(rootDir, sandboxtest.UID, sandboxtest.GID)
	if err != nil {
		return nil, root, err
	}
	p, err := runc.New(ctx, config(exe, run))
	return p, root, err
}

// opener adapts start for the test suite.
func opener(t testing.TB) sandboxtest.Open { return sandboxtest.Opener(sandboxtest.Binary(t), start) }

// need skips a test where runc sandboxes cannot run.
func need(t testing.TB) {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	sandboxtest.Need(t, runc.Version() != "", "runc in the test program: run scripts/build.sh")
}

// open returns a provider with its state in dir and the host's programs as root.
func open(t testing.TB, exe, dir string) (*engine.Provider, sandbox.Root) {
	t.Helper()
	p, root := sandboxtest.Opener(exe, start)(t, dir)
	return p.(*engine.Provider), root
}

func config(exe, dir string) runc.Config {
	return runc.Config{Exe: exe, Dir: dir, UID: sandboxtest.UID, GID: sandboxtest.GID}
}

func TestSuite(t *testing.T) {
	need(t)
	sandboxtest.Suite(t, opener(t))
}

func TestSandboxRunsUnderRunc(t *testing.T) {
	need(t)
	// Only root can access this directory.
	private := t.TempDir()
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	p, root := open(t, sandboxtest.Binary(t), filepath.Join(private, "run"))
	if p.Name() != "runc" {
		t.Errorf("provider name: %q", p.Name())
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
	if got := sandboxtest.Output(t, sb, "cat /proc/version /global/text"); got != string(host)+"of the host" {
		t.Errorf("inside: %q", got)
	}
}

func TestCreateDoesNotChangeTheRoot(t *testing.T) {
	need(t)
	sandboxtest.CreateLeavesTheRootAsItIs(t, opener(t))
}

func TestFailedStartReportsTheEnginesError(t *testing.T) {
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

func TestNewRefusesInvalidConfigurations(t *testing.T) {
	need(t)
	private := filepath.Join(t.TempDir(), "dreamcore")
	if err := os.WriteFile(private, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		cfg  runc.Config
		code dreamcore.Code
	}{
		"relative program":                   {config("dreamcore", t.TempDir()), dreamcore.CodeInternal},
		"relative directory":                 {config("/bin/true", "run"), dreamcore.CodeInternal},
		"nothing":                            {runc.Config{}, dreamcore.CodeInternal},
		"program that only root may execute": {config(private, t.TempDir()), dreamcore.CodeSetup},
		"root as the user":                   {runc.Config{Exe: "/bin/true", Dir: t.TempDir(), GID: 1}, dreamcore.CodeInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := runc.New(t.Context(), test.cfg)
			if err == nil {
				t.Fatalf("New succeeded; Close: %v", p.Close(t.Context()))
			}
			if dreamcore.CodeOf(err) != test.code {
				t.Errorf("New: %v", err)
			}
		})
	}
}

func TestLateMountsAreRefused(t *testing.T) {
	need(t)
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	if p.BindsLate() {
		t.Error("runc mounts late")
	}
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Late: []string{"/home"}})
	if err == nil || !strings.Contains(err.Error(), "after their start") {
		t.Errorf("Create: %v", err)
	}
	if err == nil {
		_ = sb.Close(t.Context())
	}
}
