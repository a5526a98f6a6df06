package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lend begins a program in alice's sandbox on a terminal of its own.
func lend(t *testing.T, h *host, program ...string) (*terminal, *exec.Cmd) {
	t.Helper()
	m := newTerminal(t)
	cmd := exec.Command(h.exe, append([]string{"sandbox", "exec", "-it", "user-" + alice, "--"}, program...)...)
	cmd.Env = h.env
	m.attach(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return m, cmd
}

// exitsWith waits for the end of a command.
func exitsWith(t *testing.T, cmd *exec.Cmd, m *terminal, code int) {
	t.Helper()
	late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if got := cmd.ProcessState.ExitCode(); got != code || err != nil && !errors.As(err, &exit) {
		t.Errorf("exit code %d, want %d, %v: %q", got, code, err, m.shown())
	}
}

func TestOperatorsHaveATerminalInASandbox(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	if code, o := s.object("/prewarm_sandbox", fmt.Sprintf(`{"user_id":%q}`, alice)); code != 200 {
		t.Fatalf("%d %v\n%s", code, o, s.log)
	}

	t.Run("a shell", func(t *testing.T) {
		m, cmd := lend(t, h, "bash", "--norc")
		before := m.mode()
		m.types("stty size; tty; id -u\n")
		m.shows("24 80\r\n")
		m.shows("/dev/pts/")
		m.shows("10000\r\n")
		if m.mode() == before {
			t.Error("the local terminal is not raw")
		}
		m.resize(133, 44)
		for end := time.Now().Add(30 * time.Second); !strings.Contains(m.shown(), "44 133\r\n") && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			m.types("stty size\n")
		}
		m.shows("44 133\r\n")
		m.types("echo be''gan; sleep 1006; echo be''hind\n")
		m.shows("began")
		time.Sleep(300 * time.Millisecond) // until sleep is in the foreground
		m.types("\x03")
		m.types("echo st''ill $?\n")
		m.shows("still 130")
		m.types("sleep 1006\n")
		time.Sleep(500 * time.Millisecond)
		m.types("\x1a")
		m.shows("Stopped")
		m.types("echo $TERM; printf 'a\\033]0;title\\007b\\033[6nc\\033[31md\\n'\n")
		m.shows("xterm-256color")
		m.shows("\nabc\x1b[31md\r\n")
		// What it leaves behind holds the terminal, and writes to it without an end.
		m.types("(trap '' HUP; setsid sh -c 'while :; do echo flood; sleep 0.01; done') & disown -a\n")
		m.shows("flood\r\n")
		m.types("exit 7\n")
		exitsWith(t, cmd, m, 7)
		if m.mode() != before {
			t.Error("the local terminal is not as before")
		}
		for _, never := range []string{"behind\r\n", "\x1b]0;", "\x1b[6n"} {
			if strings.Contains(m.shown(), never) {
				t.Errorf("%q on the screen: %q", never, m.shown())
			}
		}
	})
	t.Run("a signal", func(t *testing.T) {
		m, cmd := lend(t, h, "sh", "-c", "trap '' INT TERM HUP; stty raw; echo ready; sleep 1008")
		before := m.mode()
		m.shows("ready")
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		exitsWith(t, cmd, m, 130)
		if m.mode() != before {
			t.Error("the local terminal is not as before")
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			out := h.must("sandbox", "exec", "user-"+alice, "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 1008' || true")
			if strings.TrimSpace(out) == "0" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the program still runs: %q", out)
			}
		}
	})
	t.Run("a stopped sandbox", func(t *testing.T) {
		m, cmd := lend(t, h, "sh", "-c", "trap '' INT TERM HUP; echo ready; while :; do sleep 1; done")
		before := m.mode()
		m.shows("ready")
		h.must("sandbox", "stop", "user-"+alice)
		exitsWith(t, cmd, m, 1)
		if m.mode() != before {
			t.Error("the local terminal is not as before")
		}
	})
	t.Run("no sandbox", func(t *testing.T) {
		m, cmd := lend(t, h, "true")
		before := m.mode()
		exitsWith(t, cmd, m, 1)
		m.shows("dreamcore ps")
		if m.mode() != before {
			t.Error("the local terminal is not as before")
		}
	})
	t.Run("no terminal", func(t *testing.T) {
		if r := h.runIn("x", "sandbox", "exec", "-it", "user-"+alice, "--", "cat"); r.code != 2 || !strings.Contains(r.stderr, "standard input is not a terminal") {
			t.Errorf("%+v", r)
		}
	})
}
