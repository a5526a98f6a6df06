package disk

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// run runs a program and waits for it. It dies with this process: otherwise it
// would keep a file system busy that the next process has to unmount.
func run(ctx context.Context, program string, args ...string) error {
	// The kernel kills the child when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	if err != nil {
		err = errors.Join(err, ctx.Err())
	}
	return withOutput(filepath.Base(program), err, out)
}

// withOutput adds the output of a program to its error.
func withOutput(program string, err error, out *tail) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", program, err, strings.Join(strings.Fields(string(out.text)), " "))
}

// tail keeps the end of the text that is written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	const keep = 500
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-keep):]
	return len(p), nil
}
