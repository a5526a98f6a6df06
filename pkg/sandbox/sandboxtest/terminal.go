package sandboxtest

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// screen collects what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// shows waits until text is on the screen.
func (s *screen) shows(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(limit); !strings.Contains(s.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the terminal does not show %q but %q", text, s)
		}
	}
}

// onTerminal returns a shell script with a terminal, its keyboard and its screen.
func onTerminal(t *testing.T, text string, resized <-chan sandbox.Window) (sandbox.Command, io.Writer, *screen) {
	keys, keyboard := io.Pipe()
	t.Cleanup(func() { _ = keyboard.Close() })
	shown := &screen{}
	cmd := script(text)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = keys, shown, shown
	cmd.Terminal = &sandbox.Terminal{Size: sandbox.Window{Columns: 100, Rows: 40}, Resized: resized}
	return cmd, keyboard, shown
}

// typed types keys. Once the program has ended, nothing takes them any more.
func typed(t *testing.T, keyboard io.Writer, keys string) {
	t.Helper()
	taken := make(chan error, 1)
	go func() {
		_, err := io.WriteString(keyboard, keys)
		taken <- err
	}()
	select {
	case err := <-taken:
		must(t, err)
	case <-time.After(limit):
		t.Fatalf("nothing takes %q from the keyboard", keys)
	}
}

func testTerminal(t *testing.T, sb sandbox.Sandbox) {
	t.Run("the streams are a terminal, which is the program's own", func(t *testing.T) {
		cmd, _, shown := onTerminal(t, "tty; test -t 0 -a -t 1 -a -t 2 && echo three; echo err >&2; stty size; echo by name >/dev/tty; exit 7", nil)
		exits(t, start(t, sb, cmd), sandbox.Exit{Code: 7})
		for _, want := range []string{"/dev/pts/", "three\r\n", "err\r\n", "40 100\r\n", "by name\r\n"} {
			if !strings.Contains(shown.String(), want) {
				t.Errorf("no %q: %q", want, shown)
			}
		}
	})
	t.Run("input is typed, and ends with its reader", func(t *testing.T) {
		cmd, keyboard, shown := onTerminal(t, "read line; echo got $line; cat; echo end", nil)
		p := start(t, sb, cmd)
		typed(t, keyboard, "hello\n")
		shown.shows(t, "got hello")
		must(t, keyboard.(io.Closer).Close())
		exits(t, p, sandbox.Exit{})
		shown.shows(t, "end")
	})
	t.Run("Ctrl-C reaches the program in the foreground", func(t *testing.T) {
		cmd, keyboard, shown := onTerminal(t, "", nil)
		cmd.Args = []string{"/bin/bash", "--norc", "-i"}
		p := start(t, sb, cmd)
		typed(t, keyboard, "echo be''gan; sleep 1006; echo be''hind\n")
		shown.shows(t, "began")
		time.Sleep(200 * time.Millisecond) // until sleep is in the foreground
		typed(t, keyboard, "\x03")
		typed(t, keyboard, "echo st''ill $?; exit 5\n")
		shown.shows(t, "still 130")
		exits(t, p, sandbox.Exit{Code: 5})
		if strings.Contains(shown.String(), "behind") {
			t.Errorf("the list went on: %q", shown)
		}
	})
	t.Run("its size follows the window", func(t *testing.T) {
		sizes := make(chan sandbox.Window)
		// A trapped signal ends a read of the shell, with an error.
		cmd, keyboard, shown := onTerminal(t, "trap 'echo winch' WINCH; echo ready; while :; do read line; stty size; done", sizes)
		start(t, sb, cmd)
		shown.shows(t, "ready")
		sizes <- sandbox.Window{Columns: 133, Rows: 44}
		for end := time.Now().Add(limit); !strings.Contains(shown.String(), "44 133"); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the old size: %q", shown)
			}
			typed(t, keyboard, "\n")
		}
		shown.shows(t, "winch")
	})
	t.Run("the last output is not lost", func(t *testing.T) {
		cmd, _, shown := onTerminal(t, "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; echo last", nil)
		exits(t, start(t, sb, cmd), sandbox.Exit{})
		if n := strings.Count(shown.String(), "0123456789\r\n"); n != 20000 || !strings.HasSuffix(shown.String(), "last\r\n") {
			t.Errorf("%d lines arrived", n)
		}
	})
	t.Run("what is not read is bounded and does not block the end", func(t *testing.T) {
		cmd, _, _ := onTerminal(t, "stty raw -echo; sleep 1; exit 3", nil)
		keys := noise(4 << 20)
		for i := range keys {
			keys[i] = 'a' + keys[i]%26 // no signals, before the terminal is raw
		}
		cmd.Stdin = bytes.NewReader(keys)
		exits(t, start(t, sb, cmd), sandbox.Exit{Code: 3})
	})
	t.Run("what the program leaves behind does not keep it open", func(t *testing.T) {
		// It holds all that the program had, ignores the end, and never stops writing.
		cmd, _, _ := onTerminal(t, "trap '' HUP; setsid sh -c 'while :; do echo flood; done' & sleep 0.2; exit 4", nil)
		began := time.Now()
		exits(t, start(t, sb, cmd), sandbox.Exit{Code: 4})
		if took := time.Since(began); took > limit/2 {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("nor cuts off its last output", func(t *testing.T) {
		cmd, _, shown := onTerminal(t, "setsid sleep 1007 & echo before; exit 6", nil)
		exits(t, start(t, sb, cmd), sandbox.Exit{Code: 6})
		shown.shows(t, "before")
	})
	t.Run("nothing is left", func(t *testing.T) {
		endAll(t, sb)
		if got := strings.TrimSpace(sh(t, sb, "ls /dev/pts")); got != "ptmx" && got != "" {
			t.Errorf("terminals %q", got)
		}
	})
}
