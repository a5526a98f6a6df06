// Package crash keeps secrets inside a process, also when it dies. Harden
// keeps its memory from core dumps and from other processes. A Guard keeps
// secrets out of what the Go runtime prints at the end: the text of a panic may
// quote anything, and the runtime writes it to descriptor 2 past every logger.
//
// The guard is a second process, the reader, since a process that dies can
// clean nothing. Descriptor 2 becomes a pipe to the reader, who writes what
// comes to where it went before, without secrets. The reader is told of every
// secret before the one who adds it goes on, so it knows whatever may be
// printed. Should the reader die, nothing is printed in its place.
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

// Role is the name by which the program starts itself as the reader. Main is
// then what it does.
const Role = "dreamcore-crash"

// answerLimit is how long the reader may take to take note of the secrets. It
// does nothing else, so it is only ever so slow on a machine that stands still.
const answerLimit = 10 * time.Second

// pipeBytes is the most that a pipe may hold for ordinary users.
const pipeBytes = 1 << 20

// Harden keeps the memory of this process from others: no core dumps, here and
// in children, and unless the process may trace anyone, no other process of
// the same user reads its memory or environment. The second is not inherited.
func Harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep the memory of the process from others: %w", err)
	}
	return nil
}

// Guard is the reader of this process. It must be closed.
type Guard struct {
	// Stderr is where descriptor 2 led before: for what is clean already.
	Stderr *os.File

	redactor *secret.Redactor
	cmd      *exec.Cmd
	feed     *os.File // the secrets, to the reader
	answers  *os.File // a byte from the reader for each list of them

	mu     sync.Mutex
	closed bool // guarded by mu
}

// Start puts a reader behind descriptor 2, which is the program exe in its
// Role. It knows the secrets of r, as they are and as they change.
func Start(exe string, r *secret.Redactor) (_ *Guard, err error) {
	fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("keep standard error: %w", err)
	}
	g := &Guard{Stderr: os.NewFile(uintptr(fd), "stderr"), redactor: r}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range []*os.File{g.Stderr, g.feed, g.answers} {
				_ = f.Close() // also of nil
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
	// The runtime does not go on with a write that a signal has cut, which
	// could be in the middle of a secret: so that it fits, there is room.
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
		return nil, errors.Join(fmt.Errorf("lead standard error to the reader of crashes: %w", err), g.cmd.Wait())
	}
	r.Follow(g.tell)
	return g, nil
}

// tell makes the reader know the secrets before it returns. When that fails the
// reader is ended: what it does not know it must not let pass.
func (g *Guard) tell(values []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	line, err := json.Marshal(values)
	if err != nil {
		return // strings can be encoded
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

// Close lets descriptor 2 be what it was and waits until the reader has
// written everything. It may be called more than once.
func (g *Guard) Close() error {
	g.redactor.Follow(nil)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	// With the pipe's last end the reader ends.
	err := unix.Dup3(int(g.Stderr.Fd()), 2, 0)
	err = errors.Join(err, g.feed.Close(), g.answers.Close())
	if waitErr := g.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("the reader of crashes: %w", waitErr))
	}
	return err // Stderr stays open: somebody may print yet
}
