package daemon

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInterrupted is the cause of a context that was ended by a signal.
var ErrInterrupted = errors.New("interrupted")

// Signals are the signals of this process. The caller of Interruptible must Stop
// them.
type Signals struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	ends    chan os.Signal          // SIGINT and SIGTERM
	hangup  chan os.Signal          // SIGHUP
	pipe    chan os.Signal          // SIGPIPE
	reloads atomic.Pointer[reloads] // nil while SIGHUP ends the process
	done    chan struct{}
}

// Interruptible returns a context that ends at the first SIGINT, SIGTERM or
// SIGHUP (a terminal that was closed, unless nohup ignores it), and when the
// output of this process is no longer read. A second signal has its default
// effect and ends the process at once.
func Interruptible() (context.Context, *Signals) {
	s := &Signals{done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.ends, s.hangup, s.pipe = make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(s.ends, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(s.hangup, syscall.SIGHUP)
	}
	// Until the end: cleaning up may print something, and must not die of SIGPIPE.
	signal.Notify(s.pipe, syscall.SIGPIPE)
	go s.handle()
	return s.ctx, s
}

// Reloads makes SIGHUP a request to reload the configuration, and returns the
// channel that gets a value for each. Requests that come faster than they are
// received are merged. The signal still ends the context if this process was
// started on a terminal that is closed.
func (s *Signals) Reloads() <-chan struct{} {
	r := &reloads{requests: make(chan struct{}, 1), terminal: onTerminal()}
	s.reloads.Store(r)
	return r.requests
}

// reloads is what SIGHUP means after Signals.Reloads.
type reloads struct {
	requests chan struct{}
	terminal bool // the process was started on a terminal
}

// hangupLimit is how long after SIGHUP the kernel may take to detach processes from
// their terminal: it signals first if the shell of the terminal ends.
const hangupLimit = 200 * time.Millisecond

// request asks for a reload. It reports false if the signal came from a terminal
// that was closed.
func (r *reloads) request() bool {
	if r.terminal {
		for end := time.Now().Add(hangupLimit); time.Now().Before(end); time.Sleep(hangupLimit / 10) {
			if !onTerminal() {
				return false
			}
		}
	}
	select {
	case r.requests <- struct{}{}:
	default: // a waiting reload will read the files of now
	}
	return true
}

// onTerminal reports whether this process has a controlling terminal.
func onTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// Stop releases the signals.
func (s *Signals) Stop() {
	for _, c := range []chan os.Signal{s.ends, s.hangup, s.pipe} {
		signal.Stop(c)
	}
	s.cancel(nil)
	<-s.done
}

func (s *Signals) handle() {
	defer close(s.done)
	for broken := false; !broken; {
		select {
		case <-s.ends:
			broken = true
		case <-s.hangup:
			r := s.reloads.Load()
			broken = r == nil || !r.request()
		case <-s.pipe:
			// Notify delivers SIGPIPE for every connection: a client of the
			// service, or a sandbox at the model gateway, that hangs up must not
			// end the process.
			broken = unread(unix.Stdout) || unread(unix.Stderr)
		case <-s.ctx.Done():
			return
		}
	}
	signal.Stop(s.ends)
	if s.reloads.Load() == nil {
		signal.Stop(s.hangup)
	} // else a reload that is requested while the service stops must not kill it
	s.cancel(ErrInterrupted)
}

// unread reports whether a descriptor is a pipe or terminal that no process
// reads any more.
func unread(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}
