package term

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"
)

const (
	// maxLine bounds one answer, in bytes.
	maxLine = 64 << 10
	// pollMillis is how long Ctrl-C may take to end a prompt.
	pollMillis = 100
)

// ReadSecret prompts for what and reads one line without echo. Blanks around the
// answer are dropped. If the IO cannot prompt, or the answer is empty, it returns
// CodeInvalid with the hint instead, which should name a flag. If ctx ends first,
// the terminal is restored and ctx's cause is returned.
func (t *IO) ReadSecret(ctx context.Context, what, instead string) (string, error) {
	if err := t.canAsk(what, instead); err != nil {
		return "", err
	}
	line, err := t.ask(ctx, "? "+Clean(what)+": ", true)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", Clean(what), err)
	}
	if line == "" {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: Clean(what) + " is empty", Hint: instead}
	}
	return line, nil
}

// Confirm asks a question. It returns true for "y" or "yes" and false for any
// other answer or EOF. Its errors are those of ReadSecret.
func (t *IO) Confirm(ctx context.Context, question, instead string) (bool, error) {
	if err := t.canAsk("an answer", instead); err != nil {
		return false, err
	}
	line, err := t.ask(ctx, "? "+Clean(question)+" [y/N] ", false)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read answer: %w", err)
	}
	line = strings.ToLower(line)
	return line == "y" || line == "yes", nil
}

func (t *IO) canAsk(what, instead string) error {
	if t.Interactive() {
		return nil
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: "cannot ask for " + Clean(what) + ": not a terminal",
		Hint:    instead,
	}
}

// ask shows prompt and reads one line. The caller must have ended the progress
// line, because a question cannot share its line.
func (t *IO) ask(ctx context.Context, prompt string, hidden bool) (line string, err error) {
	tty := t.files.in
	if hidden && tty != nil {
		// Before the prompt, so that even the fastest answer is not echoed.
		restore, err := silence(tty)
		if err != nil {
			return "", err
		}
		defer restore()
	}
	if _, err := io.WriteString(t.ErrOut, prompt); err != nil {
		return "", err
	}
	if tty != nil {
		err = awaitLine(ctx, tty)
	}
	switch {
	case err != nil:
	case hidden && tty != nil:
		var secret []byte
		secret, err = xterm.ReadPassword(int(tty.Fd()))
		line = string(secret)
	default:
		line, err = readLine(t.In)
	}
	if hidden || err != nil {
		// The line break of the answer was not echoed.
		_, _ = io.WriteString(t.ErrOut, "\n")
	}
	return strings.TrimSpace(line), err
}

// readLine reads up to a line break and not a byte more, because what follows
// belongs to the next reader of r.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < maxLine {
		n, err := r.Read(b)
		if n == 1 {
			if b[0] == '\n' {
				return string(line), nil
			}
			line = append(line, b[0])
		}
		if err == io.EOF && len(line) > 0 {
			return string(line), nil
		}
		if err != nil {
			return "", err
		}
	}
	return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the answer is too long", Hint: "pass it in a file or on standard input"}
}

// silence turns off the echo of the terminal f and returns a function that turns
// it on again. ReadPassword does so itself, but it blocks in a read that Ctrl-C
// does not end, and the shell would be left without echo.
func silence(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	before, err := xterm.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("read terminal state: %w", err)
	}
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("read terminal mode: %w", err)
	}
	mode.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		return nil, fmt.Errorf("turn off echo: %w", err)
	}
	return func() { _ = xterm.Restore(fd, before) }, nil // fails only if the terminal is gone
}

// awaitLine returns nil once a read of the terminal f does not block, which is
// when a whole line was typed, or else ctx's cause.
func awaitLine(ctx context.Context, f *os.File) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, pollMillis)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the terminal: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}
