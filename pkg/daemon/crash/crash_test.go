package crash

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// The test program is also the reader and the process that crashes.
const crashEnv = "DREAMCORE_TEST_CRASH"

const (
	first = "sk-ant-first-0123456789abcdef"
	later = "a later secret\nof several lines, the second one long"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == Role {
		if err := Main(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if how := os.Getenv(crashEnv); how != "" {
		crash(how)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// crash ends the process in the given way, with secrets in its output.
func crash(how string) {
	if how == "hardened" || how == "plain" {
		idle(how == "hardened")
		return
	}
	var r secret.Redactor
	r.Add(first)
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	g, err := Start(exe, &r)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(g.Stderr, "past the guard")
	r.Add(later)
	var wg sync.WaitGroup
	switch how {
	case "panic":
		wg.Go(func() { panic("a fault with " + first + " and " + later) })
		wg.Wait()
	case "error":
		wg.Go(func() { panic(fmt.Errorf("a fault: %w", errors.New(first))) })
		wg.Wait()
	case "repanic":
		defer func() { panic(fmt.Sprint("again ", recover())) }()
		panic(first)
	case "fatal":
		println("before it:", first)
		var mu sync.Mutex
		mu.Unlock()
	case "removed":
		r.Remove(first)
		fmt.Fprintln(os.Stderr, first)
	case "long":
		println(strings.Repeat("x", maxLine-10) + first)
		println("after it", first)
	case "killed reader":
		_ = g.cmd.Process.Kill()
		_, _ = g.cmd.Process.Wait()
		panic(first)
	case "silent reader":
		_ = g.cmd.Process.Kill()
		r.Add("another secret without a reader") // must not block
		panic("another secret without a reader")
	case "close":
		println("while it is there", first)
		_ = g.Close()
		_ = g.Close()
		println("after it")
		return
	}
	_ = g.Close()
}

// runCrash runs a process that crashes and returns its output.
func runCrash(t *testing.T, how string) (text string, code int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{crashEnv + "=" + how}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func TestCrashOutputHasNoSecrets(t *testing.T) {
	for _, tt := range []struct {
		how  string
		code int
		want []string
	}{
		{"panic", 2, []string{"past the guard", "panic: a fault with [redacted] and ", "goroutine ", "crash_test.go:"}},
		{"error", 2, []string{"panic: ", "[redacted]", "goroutine "}},
		{"repanic", 2, []string{"[recovered", "again [redacted]", "goroutine "}},
		{"fatal", 2, []string{"before it: [redacted]", "fatal error: sync: unlock of unlocked mutex"}},
		{"long", 0, []string{"left out", "after it [redacted]"}},
		{"close", 0, []string{"while it is there [redacted]", "after it\n"}},
		{"killed reader", 2, []string{"past the guard"}},
		{"silent reader", 2, []string{"past the guard"}},
	} {
		t.Run(tt.how, func(t *testing.T) {
			text, code := runCrash(t, tt.how)
			if code != tt.code && !(strings.Contains(tt.how, "reader") && code != 0) {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, s := range tt.want {
				if !strings.Contains(text, s) {
					t.Errorf("the output lacks %q", s)
				}
			}
			for _, s := range []string{first, "of several lines", "0123456789abcdef", "without a reader"} {
				if strings.Contains(text, s) {
					t.Errorf("the output has %q", s)
				}
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// The search of the test above must be able to find a secret.
func TestValueThatIsNoLongerASecretIsPrinted(t *testing.T) {
	if text, code := runCrash(t, "removed"); code != 0 || !strings.Contains(text, first) {
		t.Errorf("exit code %d\n%s", code, text)
	}
}

// The other process belongs to the same user, which is not root: it may read its
// own processes unless they forbid it.
func TestHardenedProcessCannotBeRead(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	hardened, plain := idling(t, "hardened"), idling(t, "plain")
	limits, err := os.ReadFile(hardened + "limits")
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
		t.Errorf("core dumps are not forbidden: %v\n%s", err, limits)
	}
	for _, file := range []string{"environ", "maps"} {
		if err := readAsNobody(plain + file); err != nil {
			t.Errorf("the check cannot fail: %v", err)
		}
		if err := readAsNobody(hardened + file); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s can be read: %v", hardened+file, err)
		}
	}
}

// idling starts a process that is idle until the end of the test, and returns
// its directory in /proc.
func idling(t *testing.T, how string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{crashEnv + "=" + how}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
}

const nobody = 65534

// idle makes this the process of an ordinary user, hardened or not, and waits.
func idle(harden bool) {
	err := syscall.Setresuid(nobody, nobody, nobody)
	if os.Geteuid() == nobody { // changing the user has disabled it
		err = errors.Join(err, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	}
	if harden {
		err = errors.Join(err, Harden())
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
}

func readAsNobody(file string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			done <- errno
			return
		}
		_, err := os.ReadFile(file)
		done <- err
	}()
	return <-done
}
