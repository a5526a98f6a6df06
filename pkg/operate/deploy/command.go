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
	Env   []string  // its whole environment
	Stdin io.Reader // may be nil
}

// String returns the command quoted for a shell, without its environment.
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

// Runner runs a command to its end and returns its standard output. If the
// command fails, the error is a *CommandError.
type Runner func(ctx context.Context, c Command) (stdout []byte, err error)

// CommandError describes how a command failed.
type CommandError struct {
	Command string
	Stderr  string // the last part of it
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

// maxOutput bounds the stored part of each output of a command, in bytes.
const maxOutput = 1 << 20

// Run is the Runner of this machine. When ctx ends it sends SIGTERM, so that
// the command can clean up.
func Run(ctx context.Context, c Command) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Stdin = c.Env, c.Stdin
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would inherit ours
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
		return out.buf, &CommandError{Command: c.String(), Stderr: string(errOut.buf), Err: err}
	}
	return out.buf, nil
}

// tail is a writer that keeps the last maxOutput bytes.
type tail struct{ buf []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.buf = append(t.buf, b...)
	if len(t.buf) > maxOutput {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-maxOutput:]...)
	}
	return len(b), nil
}

func (p *Plan) command(args ...string) Command { return Command{Args: args, Env: p.environ()} }

// environ returns the operator's environment without the variables that would
// make our own program use other settings than the installed configuration.
func (p *Plan) environ() []string {
	env := []string{}
	for _, kv := range p.o.Environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, variablePrefix) || strings.HasPrefix(name, "MODAL_") || name == credentialsVar {
			continue
		}
		env = append(env, kv)
	}
	return env
}

// commandFault returns the error for a command that failed to do action. An
// error that is no *CommandError, such as an interruption, is returned as it is.
func commandFault(action string, err error) error {
	failed, ok := errors.AsType[*CommandError](err)
	if !ok {
		return err
	}
	hint := fmt.Sprintf("run it on its own to see why: %s", failed.Command)
	if errors.Is(err, exec.ErrNotFound) {
		hint = "install the systemd tools of this machine's distribution"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: ReasonCommand, Message: "cannot " + action, Hint: hint, Err: err}
}
