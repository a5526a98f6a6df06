package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a terminal of which the test is the screen and the keyboard.
type terminal struct {
	t        *testing.T
	screen   *os.File // the test's side
	programs *os.File // the side of the programs

	mu   sync.Mutex
	text strings.Builder
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	var n int
	control(t, screen, func(fd int) (err error) {
		if n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
		}
		return err
	})
	programs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = programs.Close() })
	m := &terminal{t: t, screen: screen, programs: programs}
	m.resize(80, 24)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := screen.Read(buf)
			m.mu.Lock()
			m.text.Write(buf[:n])
			m.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return m
}

func control(t *testing.T, f *os.File, do func(fd int) error) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

func (m *terminal) resize(columns, rows uint16) {
	m.t.Helper()
	control(m.t, m.programs, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
}

// mode returns the settings of the terminal.
func (m *terminal) mode() (mode unix.Termios) {
	m.t.Helper()
	control(m.t, m.programs, func(fd int) error {
		got, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			mode = *got
		}
		return err
	})
	return mode
}

// attach makes the terminal the one of a command that is to be started.
func (m *terminal) attach(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = m.programs, m.programs, m.programs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
}

func (m *terminal) shown() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

func (m *terminal) types(keys string) {
	m.t.Helper()
	if _, err := m.screen.WriteString(keys); err != nil {
		m.t.Fatal(err)
	}
}

// shows waits until text is on the screen.
func (m *terminal) shows(text string) {
	m.t.Helper()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(m.shown(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("the terminal does not show %q but %q", text, m.shown())
		}
	}
}

// hangUp closes the terminal, as the end of a connection does.
func (m *terminal) hangUp() {
	m.t.Helper()
	if err := m.screen.Close(); err != nil {
		m.t.Fatal(err)
	}
}
