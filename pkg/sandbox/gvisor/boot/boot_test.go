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

func TestTheHurryEnds(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	Hurry()
	if got := debug.SetMemoryLimit(-1); got != Heap {
		t.Errorf("a limit of %d bytes in a hurry", got)
	}
	if got := debug.SetGCPercent(-1); got != -1 {
		t.Errorf("collections at %d%% in a hurry", got)
	}
	Settle(time.Millisecond)
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("a limit of %d bytes afterwards", got)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("collections at %d%% afterwards", got)
	}
}

func TestUmounterIsForSentriesThatDropTheirRights(t *testing.T) {
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
		t.Errorf("a program that is not there: %s", path)
	}
	path, ok := Umounter(args, "--root=", "small")
	if !ok {
		t.Fatal("there is no umounter")
	}
	if raw, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(raw), "#!") {
		t.Errorf("the umounter: %q, %v", raw, err)
	}
	// What a sentry that was taken over could do with it.
	if err := os.Chown(path, 1, 1); !errors.Is(err, syscall.EROFS) {
		t.Errorf("chown: %v", err)
	}
	if err := os.Chmod(path, 0o777); !errors.Is(err, syscall.EROFS) {
		t.Errorf("chmod: %v", err)
	}
	if f, err := os.OpenFile(path, os.O_WRONLY, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("open for writing: %v, %v", f, err)
	}
	fd, err := openReadOnly("/bin/true") // a program, for scripts are looked up by name again
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(must(unix.Dup(fd))), "true")}
	defer cmd.ExtraFiles[0].Close()
	if err := cmd.Run(); err != nil {
		t.Errorf("it cannot be executed: %v", err)
	}
}

// becomeEnv makes the test program become what its arguments from the third on
// say, and show what the kernel knows of it.
const becomeEnv = "DREAMCORE_TEST_BECOME"

func become() {
	args := Become(2, "a-new-name")
	shown, _ := os.ReadFile("/proc/self/cmdline")
	comm, _ := os.ReadFile("/proc/self/comm")
	_, _ = os.Stdout.WriteString(strings.Join(args, "|") + "\n" + strings.Join(os.Args, "|") + "\n" +
		strings.ReplaceAll(strings.TrimRight(string(shown), "\x00"), "\x00", "|") + "\n" + string(comm))
}

func TestBecomeIsSeenByOthers(t *testing.T) {
	cmd := self(t, "/a/long/path/of/the/helper", "/a/program", "runsc-sandbox", "--root=/x", "", "last one")
	cmd.Env = append(os.Environ(), becomeEnv+"=1")
	out, err := cmd.CombinedOutput()
	const line = "runsc-sandbox|--root=/x||last one\n"
	if err != nil || string(out) != line+line+line+"a-new-name\n" {
		t.Errorf("%v:\n%s", err, out)
	}
	// Without the means to, it is only what it says.
	cmd = self(t, "/a/helper", "/a/program", "x", "")
	cmd.Env = append(os.Environ(), becomeEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "x|\nx|\n") {
		t.Errorf("%v:\n%s", err, out)
	}
}
