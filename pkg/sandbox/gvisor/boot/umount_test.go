package boot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// TestMain lets the test program act as the helper.
func TestMain(m *testing.M) {
	if os.Getenv(becomeEnv) != "" {
		become()
		os.Exit(0)
	}
	if is, err := UmountMain(os.Args); is {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func self(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Args = args
	return cmd
}

func TestOtherCommandLinesAreNotTheHelper(t *testing.T) {
	for _, args := range [][]string{
		nil, {"dreamcore-init"}, {"dreamcore-init", "umount"}, {"x", "umount", "--sync-fd=3"},
		{"/bin/dreamcore", "serve", "--listen", "x"}, {"x", "--sync-fd=3", "umount", "/proc"},
	} {
		if is, err := UmountMain(args); is || err != nil {
			t.Errorf("%q: %t, %v", args, is, err)
		}
	}
}

// TestUnmountWaitsForItsOrder checks that unmount waits for a byte to read.
func TestUnmountWaitsForItsOrder(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	inside := filepath.Join(dir, "file")
	if err := os.WriteFile(inside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ordered := range []bool{false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := self(t, "/proc/self/fd/9", umountRole, "--sync-fd=3", dir)
		cmd.ExtraFiles = []*os.File{r}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		if ordered {
			if _, err := w.Write([]byte{0}); err != nil {
				t.Fatal(err)
			}
		}
		_ = w.Close()
		err = cmd.Wait()
		_, serr := os.Stat(inside)
		if (err == nil) != ordered || os.IsNotExist(serr) != ordered {
			t.Errorf("ordered %t: %v, %v", ordered, err, serr)
		}
	}
}

func TestUnmountRefusesInvalidArguments(t *testing.T) {
	for _, flag := range []string{"", "--sync-fd=", "--sync-fd=-1", "--sync-fd=x", "--sync-fd=99999999999"} {
		if err := unmount(flag, "/not/here"); err == nil {
			t.Errorf("%q was accepted as a descriptor", flag)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	number := fmt.Sprintf("--sync-fd=%d", must(unix.Dup(int(r.Fd()))))
	_ = r.Close()
	if err := unmount(number, "/not/here"); err == nil || !strings.Contains(err.Error(), "/not/here") {
		t.Errorf("unmount of a missing directory: %v", err)
	}
}

func must(n int, err error) int {
	if err != nil {
		panic(err)
	}
	return n
}
