package boot

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestDeferredGCResumes(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	DeferGC()
	if got := debug.SetMemoryLimit(-1); got != Heap {
		t.Errorf("deferred: memory limit is %d bytes", got)
	}
	if got := debug.SetGCPercent(-1); got != -1 {
		t.Errorf("deferred: GC percent is %d", got)
	}
	ResumeGC(time.Millisecond)
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("resumed: memory limit is %d bytes", got)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("resumed: GC percent is %d", got)
	}
}

func TestUmounterIsForSentriesThatDropPrivileges(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	dir := t.TempDir()
	program := filepath.Join(dir, "small")
	if err := os.WriteFile(program, []byte("#!/bin/true\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	root := "--root=" + filepath.Join(dir, "runsc")
	for _, args := range [][]string{
		{"x", root, "boot"},
		{"x", "--apply-caps=true", "boot"},
		{"x", root, "boot", "--apply-caps=false"},
		{"x", root, "boot", "--apply-caps=true", "--sync-userns-fd=4"},
		{"x", "--root=" + filepath.Join(dir, "not", "here"), "boot", "--apply-caps=true"},
	} {
		if path, ok := Umounter(args, "--root=", "small"); ok {
			t.Errorf("%q: %s", args, path)
		}
	}
	args := []string{"x", root, "boot", "--apply-caps=true"}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	if path, ok := Umounter(args, "--root=", "absent"); ok {
		t.Errorf("found a missing program: %s", path)
	}
	path, ok := Umounter(args, "--root=", "small")
	if !ok {
		t.Fatal("no umounter found")
	}
	if raw, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(raw), "#!") {
		t.Errorf("umounter: %q, %v", raw, err)
	}
	// What a compromised sentry could do with it.
	if err := os.Chown(path, 1, 1); !errors.Is(err, syscall.EROFS) {
		t.Errorf("chown: %v", err)
	}
	if err := os.Chmod(path, 0o777); !errors.Is(err, syscall.EROFS) {
		t.Errorf("chmod: %v", err)
	}
	if f, err := os.OpenFile(path, os.O_WRONLY, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("open for writing: %v, %v", f, err)
	}
	fd, err := openReadOnly("/bin/true") // a binary, because scripts are opened again by name
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(must(unix.Dup(fd))), "true")}
	defer cmd.ExtraFiles[0].Close()
	if err := cmd.Run(); err != nil {
		t.Errorf("execute: %v", err)
	}
}

// becomeEnv makes the test program call Become for its arguments from the third
// on, and print what the kernel reports about it.
const becomeEnv = "DREAMCORE_TEST_BECOME"

func become() {
	args := Become(2, "a-new-name")
	shown, _ := os.ReadFile("/proc/self/cmdline")
	comm, _ := os.ReadFile("/proc/self/comm")
	_, _ = os.Stdout.WriteString(strings.Join(args, "|") + "\n" + strings.Join(os.Args, "|") + "\n" +
		strings.ReplaceAll(strings.TrimRight(string(shown), "\x00"), "\x00", "|") + "\n" + string(comm))
}

func TestBecomeChangesWhatTheKernelReports(t *testing.T) {
	cmd := self(t, "/a/long/path/of/the/helper", "/a/program", "runsc-sandbox", "--root=/x", "", "last one")
	cmd.Env = append(os.Environ(), becomeEnv+"=1")
	out, err := cmd.CombinedOutput()
	const line = "runsc-sandbox|--root=/x||last one\n"
	if err != nil || string(out) != line+line+line+"a-new-name\n" {
		t.Errorf("%v:\n%s", err, out)
	}
	// If the command line is too short, only os.Args changes.
	cmd = self(t, "/a/helper", "/a/program", "x", "")
	cmd.Env = append(os.Environ(), becomeEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "x|\nx|\n") {
		t.Errorf("%v:\n%s", err, out)
	}
}
