package socket

import (
	"context"
	"errors"
	"io"
	"sync"
)

// Set is a set of open sockets, or owners of sockets, that are closed together.
// The zero value is empty. Its methods are safe for concurrent use.
type Set[S interface {
	comparable
	io.Closer
}] struct {
	mu     sync.Mutex
	open   map[S]struct{} // guarded by mu
	closed bool           // guarded by mu
}

// Add adds s to the set. It returns false once Close was called.
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

// Remove removes s from the set.
func (t *Set[S]) Remove(s S) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, s)
}

// Close closes all elements concurrently and prevents further calls of Add. If
// ctx ends first, Close returns ctx's cause while closing continues; another
// call waits again.
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
