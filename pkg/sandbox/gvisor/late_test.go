package gvisor_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// late returns a sandbox with two late directories, and a directory of a user that may
// be mounted there.
func late(t *testing.T, p sandbox.Provider, root sandbox.Root) (sandbox.Sandbox, string) {
	t.Helper()
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Late: []string{"/data/users", "/home"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "projects")
	if err := errors.Join(
		os.Mkdir(dir, 0o755), os.Chown(dir, sandboxtest.UID, sandboxtest.GID), os.WriteFile(filepath.Join(dir, "game"), []byte("snake"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	return sb, dir
}

// output runs a shell script as the user of the agent.
func output(t *testing.T, sb sandbox.Sandbox, script string) string {
	t.Helper()
	var out bytes.Buffer
	p, err := sb.Start(t.Context(), sandbox.Command{
		Args: []string{"/bin/sh", "-c", script}, UID: sandboxtest.UID, GID: sandboxtest.GID, Stdout: &out, Stderr: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func bind(t *testing.T, sb sandbox.Sandbox, mounts ...sandbox.Mount) error {
	t.Helper()
	return sb.(sandbox.Binder).Bind(t.Context(), mounts)
}

// watchPath starts a program that looks for a file again and again and shows it. It has
// looked once.
func watchPath(t *testing.T, sb sandbox.Sandbox, file string) (sandbox.Process, *bytes.Buffer) {
	t.Helper()
	looked, w := io.Pipe()
	var out bytes.Buffer
	p, err := sb.Start(t.Context(), sandbox.Command{
		Args: []string{"/bin/sh", "-c", "cat " + file + " 2>/dev/null; echo looked >&2; for i in $(seq 300); do cat " + file + " 2>/dev/null && exit; sleep 0.1; done; exit 1"},
		Dir:  "/", UID: 10000, GID: 10000, Stdout: &out, Stderr: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(looked).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = looked.Close() })
	return p, &out
}

func TestDirectoriesAreMountedLate(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	if !p.BindsLate() {
		t.Fatal("the engine does not mount late")
	}
	sb, dir := late(t, p, root)
	other, _ := late(t, p, root)
	// A look before the mount must not be remembered.
	if got := output(t, sb, "ls /data/users/u/projects 2>/dev/null; ls /data/users /home"); strings.Contains(got, "game") || strings.Contains(got, "u\n") {
		t.Fatalf("before: %q", got)
	}
	// A program that runs already sees them, too.
	running, seen := watchPath(t, sb, "/data/users/u/projects/game")
	if err := bind(t, sb,
		sandbox.Mount{Source: dir, Target: "/data/users/u/projects", Writable: true},
		sandbox.Mount{Source: dir, Target: "/home/agent"},
	); err != nil {
		t.Fatal(err)
	}
	if _, err := running.Wait(); err != nil || seen.String() != "snake" {
		t.Errorf("a program that ran before: %q, %v", seen, err)
	}
	if got := output(t, sb, "cd /data/users/u/projects && pwd && cat game && echo new >made && cat /home/agent/made"); got != "/data/users/u/projects\nsnakenew\n" {
		t.Errorf("inside: %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(got) != "new\n" {
		t.Errorf("on the host: %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "game"), []byte("later"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := output(t, sb, "cat /data/users/u/projects/game"); got != "later" {
		t.Errorf("a change on the host: %q", got)
	}
	for what, script := range map[string]string{
		"a write to a read-only mount":  "echo x >/home/agent/made",
		"a directory next to the mount": "mkdir /data/users/u/x || mkdir /data/users/x || mkdir /home/x",
		"the way out":                   "ls /data/users/u/projects/../../../../proc/1/root/root",
	} {
		if got := output(t, sb, "("+script+") >/dev/null 2>&1 || echo refused"); got != "refused\n" {
			t.Errorf("%s: %q", what, got)
		}
	}
	// The machine's disk is not the sandbox's, not even its root's.
	if got := sandboxtest.Output(t, sb, "for d in /data/users /data/users/u /home; do (echo x >$d/x) 2>&1 | grep -o 'Read-only'; done"); got != "Read-only\nRead-only\nRead-only\n" {
		t.Errorf("root of the sandbox writes beside the mounts: %q", got)
	}
	if got := output(t, other, "ls -A /data/users /home"); strings.Contains(got, "u\n") || strings.Contains(got, "agent") {
		t.Errorf("another sandbox sees %q", got)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), filepath.Join(p.Dir(), sb.ID())) {
		t.Errorf("the service sees mounts of the sandbox: %v", err)
	}
	if err := sb.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "game")); err != nil || string(got) != "later" {
		t.Errorf("after the end of the sandbox: %q, %v", got, err)
	}
	if err := bind(t, sb, sandbox.Mount{Source: dir, Target: "/home/agent"}); !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("a mount into a closed sandbox: %v", err)
	}
}

func TestLateMountsAreRefused(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	sb, dir := late(t, p, root)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for what, m := range map[string]sandbox.Mount{
		"outside":              {Source: dir, Target: "/tmp/x"},
		"the directory itself": {Source: dir, Target: "/home"},
		"beside it":            {Source: dir, Target: "/homes/x"},
		"not clean":            {Source: dir, Target: "/home/../etc"},
		"relative":             {Source: dir, Target: "home/x"},
		"no source":            {Target: "/home/x"},
		"a missing source":     {Source: dir + "/missing", Target: "/home/x"},
		"a link as source":     {Source: link, Target: "/home/x"},
	} {
		if err := bind(t, sb, m); err == nil {
			t.Errorf("%s: mounted", what)
		}
	}
	if got := output(t, sb, "cat /home/x/game /tmp/x/game 2>/dev/null; true"); got != "" {
		t.Errorf("inside: %q", got)
	}
}

func TestCloseOfTheProviderKeepsLateSources(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	p, root := open(t, sandboxtest.Binary(t), t.TempDir())
	sb, dir := late(t, p, root)
	if err := bind(t, sb, sandbox.Mount{Source: dir, Target: "/home/agent", Writable: true}); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "game")); err != nil || string(got) != "snake" {
		t.Errorf("the user's file: %q, %v", got, err)
	}
}
