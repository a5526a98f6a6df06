package term

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"golang.org/x/sys/unix"
)

func TestPromptsNeedATerminal(t *testing.T) {
	tio, _, errOut := Buffers("secret\n")
	_, err := tio.ReadSecret(t.Context(), "API key", "pass --anthropic-key-file FILE")
	if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) != "pass --anthropic-key-file FILE" {
		t.Errorf("ReadSecret: %v, hint %q", err, dreamcore.HintOf(err))
	}
	if _, err := tio.Confirm(t.Context(), "Go on?", "pass --yes"); dreamcore.HintOf(err) != "pass --yes" {
		t.Errorf("Confirm: %v, hint %q", err, dreamcore.HintOf(err))
	}
	if errOut.Len() > 0 {
		t.Errorf("prompted without a terminal: %q", errOut)
	}
}

func TestConfirmRequiresYes(t *testing.T) {
	for in, want := range map[string]bool{
		"y\n": true, "YES\r\n": true, " y ": true, "n\n": false, "\n": false, "": false, "yeah\n": false, "yy\n": false,
	} {
		tio, out := terminal(in)
		got, err := tio.Confirm(t.Context(), "Delete\x1b[2J it?", "")
		if err != nil || got != want {
			t.Errorf("answer %q: %v, %v; want %v", in, got, err, want)
		}
		if !strings.HasPrefix(out.String(), "? Delete it? [y/N] ") {
			t.Errorf("prompt is %q", out)
		}
	}
}

func TestPromptLeavesTheNextLineUnread(t *testing.T) {
	tio, _ := terminal("y\nrest")
	if _, err := tio.Confirm(t.Context(), "?", ""); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(tio.In)
	if err != nil || string(rest) != "rest" {
		t.Errorf("left %q, %v", rest, err)
	}
}

func TestAnswersMustBeBoundedAndNonEmpty(t *testing.T) {
	tio, _ := terminal(strings.Repeat("x", maxLine+1))
	if _, err := tio.ReadSecret(t.Context(), "key", ""); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("an endless line: %v", err)
	}
	tio, _ = terminal(" \n")
	if _, err := tio.ReadSecret(t.Context(), "key", "h"); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) != "h" {
		t.Errorf("an empty answer: %v", err)
	}
}

// openPTY returns the two ends of a pseudo terminal.
func openPTY(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("pseudo terminals are not available: %v", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("pseudo terminals are not available: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode.Lflag&unix.ECHO != 0
}

// promptWriter calls a function once, when the prompt is shown.
type promptWriter struct {
	act   func()
	shown strings.Builder
}

func (w *promptWriter) Write(p []byte) (int, error) {
	if w.shown.Len() == 0 && w.act != nil {
		w.act()
	}
	return w.shown.Write(p)
}

func TestReadSecretTurnsOffTheEcho(t *testing.T) {
	keyboard, tty := openPTY(t)
	tio := System(tty, tty, tty, func(string) string { return "" })
	if !tio.Interactive() || !tio.OutTerminal {
		t.Fatalf("the terminal was not recognized: %+v", tio)
	}
	prompt := &promptWriter{act: func() {
		if echoes(t, tty) {
			t.Error("the prompt is shown with the echo on")
		}
		keyboard.WriteString("sk-ant-secret \n")
	}}
	tio.ErrOut = prompt
	got, err := tio.ReadSecret(t.Context(), "API key", "")
	if err != nil || got != "sk-ant-secret" {
		t.Fatalf("got %q, %v", got, err)
	}
	if !echoes(t, tty) {
		t.Error("the echo stayed off")
	}
	if prompt.shown.String() != "? API key: \n" {
		t.Errorf("shown: %q", prompt.shown.String())
	}
}

func TestCancelledPromptRestoresTheTerminal(t *testing.T) {
	_, tty := openPTY(t)
	tio := System(tty, tty, tty, func(string) string { return "" })
	interrupted := errors.New("interrupted")
	for _, ask := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := tio.ReadSecret(ctx, "key", ""); return err },
		func(ctx context.Context) error { _, err := tio.Confirm(ctx, "sure?", ""); return err },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		tio.ErrOut = &promptWriter{act: func() { cancel(interrupted) }}
		if err := ask(ctx); !errors.Is(err, interrupted) {
			t.Errorf("error is %v", err)
		}
		if !echoes(t, tty) {
			t.Error("the echo stayed off")
		}
	}
}

func TestColumnsReadsTheTerminalSize(t *testing.T) {
	_, tty := openPTY(t)
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 123}); err != nil {
		t.Fatal(err)
	}
	tio := System(tty, tty, tty, func(string) string { return "" })
	if got := tio.Stdout().Columns(); got != 123 {
		t.Errorf("Columns = %d, want 123", got)
	}
	plain, _, _ := Buffers("")
	if got := plain.Stdout().Columns(); got != defaultWidth {
		t.Errorf("Columns of a buffer = %d, want %d", got, defaultWidth)
	}
}
