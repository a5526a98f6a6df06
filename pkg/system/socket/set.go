package socket

import (
	"context"
	"errors"
	"io"
	"sync"
)

// Set is what is open of something that has sockets, to be closed together. Its
// zero value is empty. Its methods are safe for concurrent use.
type Set[S interface {
	comparable
	io.Closer
}] struct {
	mu     sync.Mutex
	open   map[S]struct{} // guarded by mu
	closed bool           // guarded by mu
}

// Add puts s into the set, and tells whether it could: not once Close has begun.
func (t *Set[S]) Add(s S) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if t.open == nil {
		t.open = map[S]struct{}{}
	}
	t.open[s] = struct{}{}
	return true
}

// Remove takes s out of the set.
func (t *Set[S]) Remove(s S) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, s)
}

// Close closes all that is in the set at the same time, and lets nothing more
// in. When ctx ends first it returns ctx's error while the closing goes on;
// calling it again waits again.
func (t *Set[S]) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	open := make([]S, 0, len(t.open))
	for s := range t.open {
		open = append(open, s)
	}
	t.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		errs := make([]error, len(open))
		var wg sync.WaitGroup
		for i, s := range open {
			wg.Go(func() { errs[i] = s.Close() })
		}
		wg.Wait()
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
