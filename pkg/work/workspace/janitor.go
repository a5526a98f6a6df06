package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// memoryInterval is how often the free memory is checked while a workspace is
// idle.
const memoryInterval = 3 * time.Second

// runJanitor closes idle workspaces that are over a limit, and some when memory
// is short, until the pool closes. A pool has one janitor.
func (p *Pool) runJanitor() {
	var (
		timer      = time.NewTimer(memoryInterval)
		measured   time.Time // the last check of the memory
		unreadable bool      // the memory could not be read, which is logged once
	)
	defer timer.Stop()
	for {
		next, idle, measure := p.sweep(time.Since(measured) >= memoryInterval)
		if measure {
			measured = time.Now()
			unreadable = p.relieve(unreadable)
		}
		if idle {
			timer.Reset(next)
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-p.wakeup:
		case <-p.quit:
			return
		}
	}
}

// wake makes the janitor look. It may be called with mu held.
func (p *Pool) wake() {
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// sweep closes idle workspaces that are over a limit. It returns when to look
// again, whether any is idle, and whether to check the memory.
func (p *Pool) sweep(due bool) (next time.Duration, idle, measure bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next = memoryInterval
	for _, e := range p.entries {
		if e.state != StateIdle {
			continue
		}
		if why := p.unfit(e); why != nil {
			p.end(e, why)
			continue
		}
		idle = true
		next = min(next, time.Until(e.lastUsed.Add(p.limits.Idle)), time.Until(e.created.Add(p.limits.MaxAge)))
	}
	measure = idle && p.limits.MinFree > 0 && (due || p.measure)
	p.measure = false
	return next, idle, measure
}

// relieve closes one idle workspace when memory is short. The janitor checks
// again when that one is closed, so that no more are closed than necessary. It
// reports whether the memory could not be read.
func (p *Pool) relieve(unreadable bool) bool {
	free, err := p.free()
	if err != nil {
		if !unreadable {
			p.log.Error("the free memory cannot be read; idle sandboxes stay in the pool", "error", err)
		}
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if free < p.limits.MinFree {
		p.evict(errMemory)
	}
	return false
}

// dismiss closes the workspace of an entry, and retries until it is closed.
// Once the pool closes, it gives up after a few attempts: the next start of the
// service removes the residue.
func (p *Pool) dismiss(e *entry) {
	log := p.log.With("sandbox", e.workspace.ID(), "user", string(e.user))
	logClosing(log, "closing a sandbox", e.reason)
	pause, final := firstPause, 0
	for {
		err := p.closeOnce(e)
		if err != nil && isClosed(p.quit) {
			final++
		}
		if p.recordClose(e, err, final == finalAttempts) {
			return
		}
		log.Error("close a sandbox; will retry", "error", err, "after", pause)
		if final > 0 {
			time.Sleep(firstPause)
			continue
		}
		select {
		case <-time.After(pause):
		case <-p.quit:
		}
		pause = min(2*pause, longestPause)
	}
}

// logClosing logs an ordinary reason as information and any other as a warning.
func logClosing(log *slog.Logger, message string, why error) {
	level := slog.LevelWarn
	if _, ok := errors.AsType[reason](why); ok {
		level = slog.LevelInfo
	}
	log.Log(context.Background(), level, message, "why", why)
}

func (p *Pool) closeOnce(e *entry) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return e.workspace.Close(ctx)
}

// recordClose records the result of an attempt to close a workspace. It reports
// whether no other attempt is needed.
func (p *Pool) recordClose(e *entry, err error, final bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.closeErr = err
	if err != nil && !final {
		if !e.failing {
			e.failing = true
			close(e.tried)
		}
		p.admit() // a waiter that counted on this slot may get another one
		return false
	}
	if err != nil {
		p.left = append(p.left, fmt.Errorf("close sandbox %s of user %s: %w", e.workspace.ID(), e.user, err))
	}
	p.setClosed(e)
	p.vacate(e)
	p.admit()
	if e.reason == errMemory {
		p.measure = true
		p.wake()
	}
	return true
}
