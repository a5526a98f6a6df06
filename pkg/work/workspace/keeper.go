package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Pauses of the keeper of spares.
const (
	// courtesy is how long it waits, before it starts the next one, for who has
	// taken one to be done with it: they would take each other's time. When they
	// come faster than sandboxes start, it does not wait.
	courtesy = 2 * time.Second
	unhurt   = time.Hour // nothing changes by itself
	// spareRoom is what must be free beyond the least free memory before one is
	// started: it takes some itself, and users' sandboxes come first.
	spareRoom = 128 << 20
)

// keep makes what is missing and closes what is not to be kept.
func (s *Spares) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.ctx.Done():
			s.discard()
			return
		}
		s.discard()
		missing, next := s.missing()
		if missing {
			s.make()
			next = 0
		}
		timer.Reset(next)
	}
}

// discard closes what is not to be kept: once Close has begun, all.
func (s *Spares) discard() {
	short := s.short(0)
	var ends []*spare
	s.mu.Lock()
	now := time.Now()
	s.broken = slices.DeleteFunc(s.broken, func(sp *spare) bool {
		if now.Before(sp.again) && !s.closed {
			return false
		}
		ends = append(ends, sp)
		return true
	})
	kept := len(s.ready)
	s.ready = slices.DeleteFunc(s.ready, func(sp *spare) bool {
		why := s.unfit(sp)
		if why == nil && kept > s.limits.Count {
			why = errCrowded
		}
		if why == nil && short {
			// Not to be started again at once with the memory that this one took.
			why, s.after = errMemory, now.Add(longestPause)
		}
		if why != nil {
			kept--
			close(sp.gone)
			sp.why = why
			ends = append(ends, sp)
		}
		return why != nil
	})
	s.mu.Unlock()
	var closing sync.WaitGroup
	for _, sp := range ends {
		closing.Go(func() { s.dismiss(sp) })
	}
	closing.Wait()
}

// unfit tells why a spare must not be given to anybody, or nil.
func (s *Spares) unfit(sp *spare) error {
	switch {
	case s.closed:
		return ErrClosed
	case isClosed(sp.Lost()):
		return fmt.Errorf("sandbox %s: %w", sp.ID(), sandbox.ErrLost)
	case time.Since(sp.made) >= s.limits.MaxAge:
		return errOld
	}
	return nil
}

// short tells whether memory is, with so much beyond the least. What cannot be
// told is not, as for users' sandboxes.
func (s *Spares) short(room int64) bool {
	s.mu.Lock()
	limit := s.limits.MinFree
	s.mu.Unlock()
	if limit == 0 {
		return false
	}
	free, err := s.cfg.Free()
	return err == nil && free < limit+room
}

// missing tells whether one is to be made now, else when to look again.
func (s *Spares) missing() (missing bool, next time.Duration) {
	short := s.short(spareRoom)
	s.mu.Lock()
	defer s.mu.Unlock()
	next = unhurt
	if s.limits.MinFree > 0 && s.limits.Count > 0 {
		next = pressureEvery
	}
	if len(s.ready) > 0 {
		next = min(next, time.Until(s.ready[0].made.Add(s.limits.MaxAge)))
	}
	for _, sp := range s.broken {
		next = min(next, time.Until(sp.again))
	}
	if s.closed || short || len(s.ready) >= s.limits.Count {
		return false, max(next, 0)
	}
	from := s.after
	if again := s.taken.Add(courtesy); s.out > 0 && !s.rush && again.After(from) {
		from = again
	}
	wait := time.Until(from)
	return wait <= 0, max(min(next, wait), 0)
}

// make starts a spare, for who waits for it or for the next one who comes.
func (s *Spares) make() {
	s.mu.Lock()
	s.making = true
	s.mu.Unlock()
	sb, err := s.cfg.Create(s.ctx, s.cfg.Spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	waiter := s.waiter
	s.making, s.waiter = false, nil
	if err != nil {
		if s.ctx.Err() == nil {
			s.pause = min(max(2*s.pause, firstPause), longestPause)
			s.after = time.Now().Add(s.pause)
			s.cfg.Logger.Error("start a spare sandbox; it is tried again", "error", err, "after", s.pause)
		}
		if waiter != nil {
			waiter <- nil
		}
		return
	}
	s.pause = 0
	sp := &spare{Sandbox: sb, made: time.Now(), gone: make(chan struct{})}
	if waiter != nil && !s.closed {
		s.lend(sp, true)
		waiter <- sp
		return
	}
	if waiter != nil {
		waiter <- nil
	}
	s.ready = append(s.ready, sp)
	s.wg.Go(func() {
		select {
		case <-sp.Lost():
			s.poke()
		case <-sp.gone:
		}
	})
}

// dismiss closes one that is a spare no more. One that cannot be closed is
// tried again later; once Close has begun, a few times more. The lock is not
// held.
func (s *Spares) dismiss(sp *spare) {
	level := slog.LevelWarn
	if _, ok := errors.AsType[reason](sp.why); ok {
		level = slog.LevelInfo
	}
	s.cfg.Logger.Log(context.Background(), level, "closing a spare sandbox", "sandbox", sp.ID(), "why", sp.why)
	var err error
	for try := range lastTries {
		if try > 0 {
			time.Sleep(firstPause)
		}
		if err = closeSpare(sp); err == nil {
			return
		}
		s.cfg.Logger.Error("close a spare sandbox; it is tried again", "sandbox", sp.ID(), "error", err)
		if s.later(sp) {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = append(s.left, fmt.Errorf("close spare sandbox %s: %w", sp.ID(), err))
}

func closeSpare(sp *spare) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return sp.Close(ctx)
}

// later leaves one that could not be closed to the keeper, while there is one.
func (s *Spares) later(sp *spare) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	sp.pause = min(max(2*sp.pause, firstPause), longestPause)
	sp.again = time.Now().Add(sp.pause)
	s.broken = append(s.broken, sp)
	return true
}
