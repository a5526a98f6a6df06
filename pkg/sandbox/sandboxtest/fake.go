package sandboxtest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Run describes one program in a Fake to the function that plays it.
type Run struct {
	sandbox.Command
	Signals <-chan syscall.Signal // the signals of Process.Signal; a program may ignore them
	Killed  <-chan struct{}       // closed when the program must end at once
}

// Fake is a sandbox without an engine, for tests of code that uses sandboxes. A
// function plays its programs. The exported fields must be set before the first
// use.
type Fake struct {
	// Program plays every program that is started; the program ends when it
	// returns. If it is nil, programs exit with 0. Stdout and Stderr of the Run
	// are never nil.
	Program func(Run) (sandbox.Exit, error)

	StartErr  error // of every Start, and of Clean, which starts a program
	EndAllErr error // of every EndAll and EndUser, and of Clean, which ends the processes first
	CloseErr  error

	mu     sync.Mutex
	lost   chan struct{}
	closes atomic.Int64 // added to only with mu held
	ends   atomic.Int64
	runs   sync.WaitGroup
}

var _ sandbox.Sandbox = (*Fake)(nil)

// ID implements sandbox.Sandbox.
func (f *Fake) ID() string { return "fake" }

// Start implements sandbox.Sandbox.
func (f *Fake) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if f.StartErr != nil {
		return nil, f.StartErr
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	life, kill := context.WithCancel(ctx)
	stdout, stderr := &fakeOutput{w: cmd.Stdout, kill: kill}, &fakeOutput{w: cmd.Stderr, kill: kill}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	p := &fakeProcess{signals: make(chan syscall.Signal, 16), done: make(chan struct{})}
	lost := f.Lost()
	f.mu.Lock() // so that a concurrent Close waits for both goroutines or neither
	defer f.mu.Unlock()
	if f.closes.Load() > 0 {
		kill()
		return nil, fmt.Errorf("fake: %w", sandbox.ErrLost)
	}
	f.runs.Go(func() {
		defer close(p.done)
		defer kill()
		if f.Program != nil {
			p.exit, p.err = f.Program(Run{Command: cmd, Signals: p.signals, Killed: life.Done()})
		}
		p.err = cmp.Or(p.err, stdout.failed(), stderr.failed(), f.lostErr())
	})
	f.runs.Go(func() {
		defer kill()
		select {
		case <-lost:
		case <-p.done:
		}
	})
	return p, nil
}

// EndAll implements sandbox.Sandbox.
func (f *Fake) EndAll(context.Context) error {
	f.ends.Add(1)
	return f.EndAllErr
}

// EndUser implements sandbox.Sandbox. It counts and fails as EndAll does.
func (f *Fake) EndUser(ctx context.Context, _ uint32) error { return f.EndAll(ctx) }

// Clean implements sandbox.Sandbox. It removes nothing.
func (f *Fake) Clean(ctx context.Context, _ sandbox.Residue) error {
	return cmp.Or(f.EndAll(ctx), f.StartErr)
}

// Reach implements sandbox.Sandbox. Only Loopback can be reached.
func (f *Fake) Reach(_ context.Context, _, _ uint32, endpoint string) (string, error) {
	if endpoint == sandbox.Loopback {
		return sandbox.Opened, f.lostErr()
	}
	return syscall.ENETUNREACH.Error(), f.lostErr()
}

// Lost implements sandbox.Sandbox.
func (f *Fake) Lost() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost == nil {
		f.lost = make(chan struct{})
	}
	return f.lost
}

// Close implements sandbox.Sandbox. It waits for the programs, which must end
// when they are killed.
func (f *Fake) Close(context.Context) error {
	lost := f.Lost()
	f.mu.Lock()
	if f.closes.Add(1) == 1 {
		close(f.lost)
	}
	f.mu.Unlock()
	<-lost
	f.runs.Wait()
	return f.CloseErr
}

// Closes returns how often the sandbox was closed.
func (f *Fake) Closes() int { return int(f.closes.Load()) }

// EndAlls returns how often the processes of the sandbox, or of a user, were ended.
func (f *Fake) EndAlls() int { return int(f.ends.Load()) }

func (f *Fake) lostErr() error {
	select {
	case <-f.Lost():
		return fmt.Errorf("fake: %w", sandbox.ErrLost)
	default:
		return nil
	}
}

// fakeOutput kills the program at the first error of its writer.
type fakeOutput struct {
	w    io.Writer // may be nil
	kill func()

	mu  sync.Mutex
	err error
}

func (o *fakeOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil || o.err != nil {
		return len(p), nil // a program does not notice it
	}
	if _, err := o.w.Write(p); err != nil {
		o.err = fmt.Errorf("output of the fake: %w", err)
		o.kill()
	}
	return len(p), nil
}

func (o *fakeOutput) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

type fakeProcess struct {
	signals chan syscall.Signal
	done    chan struct{} // closed when exit and err are set
	exit    sandbox.Exit
	err     error
}

func (p *fakeProcess) Signal(sig syscall.Signal) error {
	select {
	case p.signals <- sig:
	default:
	}
	return nil
}

func (p *fakeProcess) Wait() (sandbox.Exit, error) {
	<-p.done
	return p.exit, p.err
}
