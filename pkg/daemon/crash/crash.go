// Package crash keeps secrets inside a process, even when it crashes. Harden
// protects its memory from core dumps and from other processes. A Guard removes
// secrets from the output of the Go runtime: the message of a panic may quote
// anything, and the runtime writes it to descriptor 2 past every logger.
//
// The guard is a second process, the reader, since a process that crashes can no
// longer redact anything. Descriptor 2 becomes a pipe to the reader, which
// writes everything without secrets to where descriptor 2 led before. The reader
// receives a new secret before Redactor.Add returns, so it knows every secret
// that can be printed. If the reader dies, nothing is printed.
package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// Role is the name under which the program starts itself as the reader, to run
// Main.
const Role = "dreamcore-crash"

// answerLimit is how long the reader may take to acknowledge the secrets. It
// does little else, so it is only that slow on a machine that is stalled.
const answerLimit = 10 * time.Second

// pipeBytes is the largest capacity of a pipe that ordinary users may set.
const pipeBytes = 1 << 20

// Harden protects the memory of this process: it disables core dumps, which
// children inherit, and stops other processes of the same user that have no
// CAP_SYS_PTRACE from reading its memory or environment, which they do not
// inherit.
func Harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protect the memory of the process: %w", err)
	}
	return nil
}

// Guard is a running reader. The caller must close it.
type Guard struct {
	// Stderr is the original descriptor 2, for output that is already redacted.
	Stderr *os.File

	redactor *secret.Redactor
	cmd      *exec.Cmd
	feed     *os.File // lists of secrets, to the reader
	answers  *os.File // one byte from the reader for each list

	mu     sync.Mutex
	closed bool // guarded by mu
}

// Start starts the program exe as the reader and leads descriptor 2 to it. The
// reader knows the secrets of r, also those that are added later.
func Start(exe string, r *secret.Redactor) (_ *Guard, err error) {
	fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate standard error: %w", err)
	}
	g := &Guard{Stderr: os.NewFile(uintptr(fd), "stderr"), redactor: r}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range []*os.File{g.Stderr, g.feed, g.answers} {
				_ = f.Close() // harmless for nil
			}
		}
	}()
	pipe := func() (in, out *os.File) {
		if err == nil {
			in, out, err = os.Pipe()
		}
		return in, out
	}
	var text, textIn, feedOut, answerIn *os.File
	text, textIn = pipe()
	feedOut, g.feed = pipe()
	g.answers, answerIn = pipe()
	theirs = []*os.File{text, textIn, feedOut, answerIn}
	if err != nil {
		return nil, fmt.Errorf("make pipes for crashes: %w", err)
	}
	// The runtime does not continue a write that a signal has interrupted, which
	// could be in the middle of a secret. A large pipe takes the whole write.
	_, _ = unix.FcntlInt(textIn.Fd(), unix.F_SETPIPE_SZ, pipeBytes)
	g.cmd = exec.Command(exe)
	g.cmd.Args = []string{Role}
	g.cmd.Env = []string{}
	g.cmd.Stdin, g.cmd.Stderr = text, g.Stderr
	g.cmd.ExtraFiles = []*os.File{feedOut, answerIn}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the reader of crashes: %w", err)
	}
	if err := unix.Dup3(int(textIn.Fd()), 2, 0); err != nil {
		_ = g.cmd.Process.Kill()
		return nil, errors.Join(fmt.Errorf("redirect standard error to the reader of crashes: %w", err), g.cmd.Wait())
	}
	r.Follow(g.send)
	return g, nil
}

// send returns when the reader knows the secrets. If it cannot be told, it is
// killed: it must not forward what it does not know.
func (g *Guard) send(values []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	line, err := json.Marshal(values)
	if err != nil {
		return // cannot happen with strings
	}
	defer clear(line)
	end := time.Now().Add(answerLimit)
	_ = g.feed.SetWriteDeadline(end)
	_ = g.answers.SetReadDeadline(end)
	if _, err := g.feed.Write(append(line, '\n')); err == nil {
		if _, err = g.answers.Read(make([]byte, 1)); err == nil {
			return
		}
	}
	_ = g.cmd.Process.Kill()
}

// Close restores descriptor 2 and waits until the reader has written everything.
// It may be called more than once.
func (g *Guard) Close() error {
	g.redactor.Follow(nil)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	// The reader ends when the last writing end of its pipe is closed.
	err := unix.Dup3(int(g.Stderr.Fd()), 2, 0)
	err = errors.Join(err, g.feed.Close(), g.answers.Close())
	if waitErr := g.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("the reader of crashes: %w", waitErr))
	}
	return err // Stderr stays open: it is still printed to
}
