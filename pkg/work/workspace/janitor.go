package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
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

// relieve ends the standby sandboxes when memory is short; if there are none, one agent
// that waits; if none waits, it closes one idle workspace. The janitor checks again when
// that is done, so that no more are closed than necessary. It reports whether the memory
// could not be read.
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
	if free >= p.limits.MinFree {
		return false
	}
	if p.standby != nil && p.standby.shed() {
		p.measure = true
		return false
	}
	if !p.shedAgent() {
		p.evict(errMemory)
	}
	return false
}

// dismiss closes the workspace of an entry.
func (p *Pool) dismiss(e *entry) {
	log := p.log.With("sandbox", e.workspace.ID(), "user", string(e.user))
	closeSandbox(e.workspace, e.reason, p.quit, log, func(err error, last bool) { p.recordClose(e, err, last) })
}

// closeSandbox closes a sandbox because of why, and retries until it is closed.
// Once quit is closed, it gives up after a few attempts: the next start of the
// service removes the residue. It calls record after each attempt; last is set
// if there is no other.
func closeSandbox(sb sandbox.Sandbox, why error, quit <-chan struct{}, log *slog.Logger, record func(err error, last bool)) {
	level := slog.LevelWarn
	if _, ok := errors.AsType[reason](why); ok {
		level = slog.LevelInfo
	}
	log.Log(context.Background(), level, "closing a sandbox", "why", why)
	pause, final := firstPause, 0
	for {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		err := sb.Close(ctx)
		cancel()
		if err != nil && isClosed(quit) {
			final++
		}
		last := err == nil || final == finalAttempts
		record(err, last)
		if last {
			return
		}
		log.Error("close a sandbox; will retry", "error", err, "after", pause)
		if final > 0 {
			time.Sleep(firstPause)
			continue
		}
		select {
		case <-time.After(pause):
		case <-quit:
		}
		pause = min(2*pause, longestPause)
	}
}

// recordClose records the result of an attempt to close a workspace; last is set
// if there is no other.
func (p *Pool) recordClose(e *entry, err error, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.closeErr = err
	if !last {
		if !e.failing {
			e.failing = true
			close(e.tried)
		}
		p.admit() // a waiter that counted on this slot may get another one
		return
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
}
