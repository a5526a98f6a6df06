package sandboxtest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Run is one program in a Fake.
type Run struct {
	sandbox.Command
	Signals <-chan syscall.Signal // what Process.Signal sent; a program may ignore it
	Killed  <-chan struct{}       // closed when the program must end at once
}

// Fake is a sandbox without an engine, for tests of what uses sandboxes: a
// program in it is a function. Its fields are set before the first use.
type Fake struct {
	// Program plays every program that is started; its return ends the
	// program. A nil one exits with 0. Its Stdout and Stderr may always be
	// written to.
	Program func(Run) (sandbox.Exit, error)

	StartErr  error // of every Start, and of Clean, which starts a program
	EndAllErr error // of every EndAll, and of Clean, which ends the processes first
	CloseErr  error

	mu     sync.Mutex
	lost   chan struct{}
	closes int
	ends   int
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
	f.mu.Lock() // a Close that is under way waits for all of it or none
	defer f.mu.Unlock()
	if f.closes > 0 {
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
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends++
	return f.EndAllErr
}

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
	f.closes++
	if f.closes == 1 {
		close(f.lost)
	}
	f.mu.Unlock()
	<-lost
	f.runs.Wait()
	return f.CloseErr
}

// Closes returns how often the sandbox was closed, EndAlls how often its
// processes were ended.
func (f *Fake) Closes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closes
}

// EndAlls is described at Closes.
func (f *Fake) EndAlls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ends
}

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
		return len(p), nil // a program does not hear of it
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
