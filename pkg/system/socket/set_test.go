package socket

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slow takes a while to close.
type slow struct {
	takes  time.Duration
	err    error
	mu     sync.Mutex
	closed int
}

func (s *slow) Close() error {
	time.Sleep(s.takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return s.err
}

func (s *slow) closes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func TestSetClosesConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set Set[*slow]
		bad := errors.New("bad")
		all := []*slow{{takes: time.Second}, {takes: time.Second, err: bad}, {takes: time.Second}}
		for _, s := range all {
			if !set.Add(s) {
				t.Fatal("not added")
			}
		}
		gone := &slow{}
		set.Add(gone)
		set.Remove(gone)
		start := time.Now()
		if err := set.Close(t.Context()); !errors.Is(err, bad) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		for _, s := range all {
			if n := s.closes(); n != 1 {
				t.Errorf("closed %d times", n)
			}
		}
		if gone.closes() != 0 {
			t.Error("a removed element was closed")
		}
		if set.Add(gone) {
			t.Error("Add succeeded after Close")
		}
	})
}

func TestSetContinuesClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set Set[*slow]
		s := &slow{takes: time.Minute}
		set.Add(s)
		why := errors.New("no time")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		if err := set.Close(ctx); !errors.Is(err, why) {
			t.Errorf("Close: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if n := s.closes(); n != 1 {
			t.Errorf("closed %d times", n)
		}
		var empty Set[*slow]
		if err := empty.Close(t.Context()); err != nil {
			t.Errorf("empty set: %v", err)
		}
	})
}
