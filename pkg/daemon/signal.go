package daemon

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrInterrupted is the cause of a context that was ended by a signal.
var ErrInterrupted = errors.New("interrupted")

// Interruptible returns a context that ends at the first SIGINT, SIGTERM or
// SIGHUP (a terminal that was closed, unless nohup ignores it), and when the
// output of this process is no longer read. A second signal has its default
// effect and ends the process at once. stop releases the signals.
func Interruptible() (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals, pipe := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Until the end: cleaning up may print something, and must not die of SIGPIPE.
	signal.Notify(pipe, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for broken := false; !broken; {
			select {
			case <-signals:
				broken = true
			case <-pipe:
				// Notify delivers SIGPIPE for every connection: a client of the
				// service, or a sandbox at the model gateway, that hangs up must not
				// end the process.
				broken = unread(unix.Stdout) || unread(unix.Stderr)
			case <-ctx.Done():
				return
			}
		}
		signal.Stop(signals)
		cancel(ErrInterrupted)
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(pipe)
		cancel(nil)
		<-done
	}
}

// unread reports whether a descriptor is a pipe or terminal that no process
// reads any more.
func unread(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}
