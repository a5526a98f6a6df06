package workspace

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Pauses of the keeper of standby sandboxes.
const (
	// startDelay is how long the keeper waits, after one was handed out for a check,
	// before it starts the next one while the first is in use: a start would slow the
	// check down. When checks come faster than sandboxes start, it does not wait.
	startDelay = 2 * time.Second
	// busyPause is how long the keeper waits before it asks again whether the processors
	// are busy.
	busyPause = time.Second
	// longSleep is for when only a wake can change anything.
	longSleep = time.Hour
	// standbyReserve is the memory that must be free beyond MinFree before one
	// is started: it takes some itself, and users' sandboxes come first.
	standbyReserve = 128 << 20
)

// keep starts and closes standby sandboxes until Close begins.
func (s *Standby) keep() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.wakeup:
		case <-s.ctx.Done():
			s.discard()
			return
		}
		s.discard()
		missing, next := s.missing()
		if missing {
			s.start()
			next = 0
		}
		timer.Reset(next)
	}
}

// discard closes those that must not be kept; once Close has begun, all.
func (s *Standby) discard() {
	short := s.memoryShort(0)
	misfits := s.misfits()
	s.mu.Lock()
	defer s.mu.Unlock()
	count := len(s.ready)
	s.ready = slices.DeleteFunc(s.ready, func(sb *standby) bool {
		why := s.unfit(sb)
		if why == nil {
			why = misfits[sb]
		}
		if errors.Is(why, errAgent) {
			s.notBefore = time.Now().Add(s.cfg.Delay) // what changes now may go on to change
		}
		if why == nil && count > s.limits.Count {
			why = errCrowded
		}
		if why == nil && short {
			// The next start must not take the memory that this close frees.
			why, s.notBefore = errMemory, time.Now().Add(longestPause)
		}
		if why != nil {
			count--
			close(sb.removed)
			s.closing++
			s.wg.Go(func() { s.dismiss(sb, why) })
		}
		return why != nil
	})
}

// unfit returns why a sandbox must not be handed out, or nil. It must be called
// with mu held.
func (s *Standby) unfit(sb *standby) error {
	switch {
	case s.closed, s.disabled:
		return ErrClosed
	case isClosed(sb.Lost()):
		return fmt.Errorf("sandbox %s: %w", sb.ID(), sandbox.ErrLost)
	case time.Since(sb.created) >= s.limits.MaxAge:
		return errOld
	}
	return nil
}

// misfits returns those that StandbyConfig.Fit refuses, with the reasons. It must be called
// without mu: Fit may read files.
func (s *Standby) misfits() map[*standby]error {
	if s.cfg.Fit == nil {
		return nil
	}
	s.mu.Lock()
	ready := slices.Clone(s.ready)
	s.mu.Unlock()
	found := map[*standby]error{}
	for _, sb := range ready {
		if why := s.cfg.Fit(sb.Sandbox); why != nil {
			found[sb] = why
		}
	}
	return found
}

// memoryShort reports whether less than MinFree and reserve bytes are free. As
// for the pool, memory that cannot be read is not short.
func (s *Standby) memoryShort(reserve int64) bool {
	s.mu.Lock()
	limit := s.limits.MinFree
	s.mu.Unlock()
	if limit == 0 {
		return false
	}
	free, err := s.cfg.Free()
	return err == nil && free < limit+reserve
}

// missing reports whether one must be started now, and otherwise when to look
// again.
func (s *Standby) missing() (missing bool, next time.Duration) {
	short := s.memoryShort(s.cfg.Reserve)
	busy := s.cfg.Busy != nil && s.cfg.Busy()
	s.mu.Lock()
	defer s.mu.Unlock()
	next = longSleep
	if (s.limits.MinFree > 0 || s.cfg.Fit != nil) && s.limits.Count > 0 {
		next = memoryInterval
	}
	if len(s.ready) > 0 {
		next = min(next, time.Until(s.ready[0].created.Add(s.limits.MaxAge)))
	}
	// The close of one that is replaced wakes the keeper: two in its place would
	// take twice the memory.
	if s.closed || s.disabled || short || s.closing > 0 || len(s.ready) >= s.limits.Count {
		return false, max(next, 0)
	}
	from := s.notBefore
	if delayed := s.lastTaken.Add(s.cfg.Delay); s.inUse > 0 && !s.exhausted && delayed.After(from) {
		from = delayed
	}
	if soon := time.Now().Add(busyPause); busy && soon.After(from) {
		from = soon
	}
	wait := time.Until(from)
	return wait <= 0, max(min(next, wait), 0)
}

// start starts a sandbox, for the caller that waits for it or for the next one.
func (s *Standby) start() {
	s.mu.Lock()
	s.starting = true
	s.mu.Unlock()
	created, err := s.cfg.Create(s.ctx, s.cfg.Spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	waiter := s.waiter
	s.starting, s.waiter = false, nil
	if waiter != nil {
		defer close(waiter) // it receives nil if it gets no sandbox
	}
	if err != nil {
		if s.ctx.Err() == nil {
			s.pause = min(max(2*s.pause, firstPause), longestPause)
			s.notBefore = time.Now().Add(s.pause)
			s.cfg.Logger.Error("start a standby sandbox; will retry", "error", err, "after", s.pause)
		}
		return
	}
	s.pause = 0
	sb := &standby{Sandbox: created, created: time.Now(), removed: make(chan struct{})}
	if waiter != nil && !s.closed {
		s.handOut(sb, true)
		waiter <- sb
		return
	}
	s.ready = append(s.ready, sb)
	s.wg.Go(func() {
		select {
		case <-sb.Lost():
			s.wake()
		case <-sb.removed:
		}
	})
}

// dismiss closes a sandbox that is not in ready any more, and that closing
// counts. It must be called without mu.
func (s *Standby) dismiss(sb *standby, why error) {
	log := s.cfg.Logger.With("sandbox", sb.ID(), "standby", true)
	first := true
	closeSandbox(sb, why, s.ctx.Done(), log, func(err error, last bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if first { // one that cannot be closed does not keep others from starting
			first = false
			s.closing--
			s.wake()
		}
		if err != nil && last {
			s.left = append(s.left, fmt.Errorf("close standby sandbox %s: %w", sb.ID(), err))
		}
	})
}
