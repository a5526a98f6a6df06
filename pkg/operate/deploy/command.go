package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Command is a program to run.
type Command struct {
	Args  []string
	Env   []string  // all of its environment
	Stdin io.Reader // nil is nothing
}

// String is the command as a shell takes it, without its environment.
func (c Command) String() string {
	quoted := make([]string, len(c.Args))
	for i, a := range c.Args {
		quoted[i] = a
		if a == "" || strings.ContainsFunc(a, special) {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

func special(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._+@:=,-", r)
}

// Runner runs a command to its end and returns its standard output. A command
// that fails gives a *CommandError.
type Runner func(ctx context.Context, c Command) (stdout []byte, err error)

// CommandError tells how a command failed.
type CommandError struct {
	Command string
	Code    int    // exit code; -1 when it did not start or a signal ended it
	Stderr  string // its end
	Err     error
}

func (e *CommandError) Error() string {
	text := strings.TrimSpace(e.Stderr)
	if text == "" {
		text = e.Err.Error()
	}
	return e.Command + ": " + text
}

func (e *CommandError) Unwrap() error { return e.Err }

// maxOutput bounds what is kept of each output of a command.
const maxOutput = 1 << 20

// Run is the Runner of this machine. A command gets SIGTERM when ctx ends, so
// that it can clean up.
func Run(ctx context.Context, c Command) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Stdin = c.Env, c.Stdin
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be ours
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	var out, errOut tail
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		code := -1
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		return out.buf, &CommandError{Command: c.String(), Code: code, Stderr: string(errOut.buf), Err: err}
	}
	return out.buf, nil
}

// tail keeps the end of what is written to it.
type tail struct{ buf []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.buf = append(t.buf, b...)
	if len(t.buf) > maxOutput {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-maxOutput:]...)
	}
	return len(b), nil
}

func (p *Plan) command(args ...string) Command { return Command{Args: args, Env: p.environ()} }

// environ is the operator's environment without what would steer our own
// program past the configuration that is installed.
func (p *Plan) environ() []string {
	env := []string{}
	for _, kv := range p.o.Environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "DREAMCORE_") || strings.HasPrefix(name, "MODAL_") || name == credentialsVar {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// commandFault is the error of a command that failed to do what is named. A
// command that was interrupted gives the reason of that.
func commandFault(action string, err error) error {
	var failed *CommandError
	if !errors.As(err, &failed) {
		return err
	}
	hint := fmt.Sprintf("run it by itself to see why: %s", failed.Command)
	if errors.Is(err, exec.ErrNotFound) {
		hint = "install the systemd tools of this machine's distribution, then run: dreamcore deploy"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Hint: hint, Err: err}
}
