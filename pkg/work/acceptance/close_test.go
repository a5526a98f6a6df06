package acceptance_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
)

// ends is a sandbox whose processes end badly. Its programs answer as the driver
// does, until the request.
type ends struct {
	sandbox.Sandbox
	mu      sync.Mutex
	fails   int           // how often EndUser fails
	calls   int           // of EndUser
	stays   chan struct{} // if not nil, programs end only with it
	garbage bool          // they break the rules
}

func (*ends) ID() string { return "ends" }

func (e *ends) EndUser(context.Context, uint32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calls++; e.calls <= e.fails {
		return errors.New("some processes do not die")
	}
	return nil
}

func (e *ends) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		line := `{"ready":"Standin/1"}`
		if slices.Contains(cmd.Args, "serve") {
			line = `{"port":8000}`
		} else if e.garbage {
			line = "garbage"
		}
		if _, err := cmd.Stdout.Write([]byte(line + "\n")); err != nil {
			return // it is killed
		}
		if e.stays != nil && !slices.Contains(cmd.Args, "serve") {
			<-e.stays
		} else {
			<-ctx.Done()
		}
	}()
	return program{ended}, nil
}

type program struct{ ended chan struct{} }

func (program) Signal(syscall.Signal) error { return nil }

func (p program) Wait() (sandbox.Exit, error) {
	<-p.ended
	return sandbox.Exit{Code: 137}, nil
}

// TestCloseEndsWhatAFailedCheckLeft: the first attempt to end the browser failed.
func TestCloseEndsWhatAFailedCheckLeft(t *testing.T) {
	s := settings
	s.Delay = time.Hour
	e := &ends{fails: 2, garbage: true}
	b := acceptance.Start(t.Context(), e, s)
	if _, err := b.Check(t.Context(), inside); err == nil || e.calls != 1 {
		t.Fatalf("%v after %d calls", err, e.calls)
	}
	if err := b.Close(t.Context()); err == nil || e.calls != 2 {
		t.Errorf("%v after %d calls", err, e.calls)
	}
	for range 2 {
		if err := b.Close(t.Context()); err != nil || e.calls != 3 {
			t.Errorf("%v after %d calls", err, e.calls)
		}
	}
	unused := &ends{}
	if err := acceptance.Start(t.Context(), unused, s).Close(t.Context()); err != nil || unused.calls != 0 {
		t.Errorf("one that never started: %v, %d calls", err, unused.calls)
	}
}

// TestCloseDoesNotWaitForTheGuest: a supervisor may never say that a program has
// ended.
func TestCloseDoesNotWaitForTheGuest(t *testing.T) {
	s := settings
	s.Delay = 0
	e := &ends{stays: make(chan struct{})}
	b := acceptance.Start(t.Context(), e, s)
	time.Sleep(100 * time.Millisecond) // it has started
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- b.Close(ctx) }()
	select {
	case err := <-closed:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for the guest")
	}
	close(e.stays)
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
