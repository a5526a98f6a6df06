package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// pressureEvery is how often the free memory is looked at while a member is
// idle.
const pressureEvery = 3 * time.Second

// tidy closes idle members whose time has come, and some when memory is short,
// until the pool closes. It is the pool's one janitor.
func (p *Pool[M]) tidy() {
	var (
		timer    = time.NewTimer(pressureEvery)
		measured time.Time // when the memory was looked at
		blind    bool      // it could not be, which is logged once
	)
	defer timer.Stop()
	for {
		next, idle, measure := p.sweep(time.Since(measured) >= pressureEvery)
		if measure {
			measured = time.Now()
			blind = p.relieve(blind)
		}
		if idle {
			timer.Reset(next)
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-p.wake:
		case <-p.quit:
			return
		}
	}
}

// poke makes the janitor look. It may be called with the lock held.
func (p *Pool[M]) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// sweep closes idle members that are not to be kept. It tells after what time
// to look again, whether any is idle, and whether to look at the memory.
func (p *Pool[M]) sweep(due bool) (next time.Duration, idle, measure bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next = pressureEvery
	for _, s := range p.places {
		if s.state != StateIdle {
			continue
		}
		if why := p.unfit(s); why != nil {
			p.end(s, why)
			continue
		}
		idle = true
		next = min(next, time.Until(s.used.Add(p.limits.Idle)), time.Until(s.created.Add(p.limits.MaxAge)))
	}
	measure = idle && p.limits.MinFree > 0 && (due || p.measure)
	p.measure = false
	return next, idle, measure
}

// relieve closes one idle member when memory is short. When that one is
// closed, the janitor looks again: no more go than must.
func (p *Pool[M]) relieve(blind bool) bool {
	free, err := p.free()
	if err != nil {
		if !blind {
			p.log.Error("the free memory cannot be read; idle sandboxes are kept", "error", err)
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

// dismiss closes the member of a place, and tries until it is closed. Once the
// pool closes it tries a few times more, then leaves it to the next start.
func (p *Pool[M]) dismiss(s *place[M]) {
	log := p.log.With("sandbox", s.member.ID(), "user", string(s.user))
	level := slog.LevelWarn
	if _, ok := errors.AsType[reason](s.why); ok {
		level = slog.LevelInfo
	}
	log.Log(context.Background(), level, "closing a sandbox", "why", s.why)
	pause, last := firstPause, 0
	for {
		err := p.closeOnce(s)
		if err != nil && isClosed(p.quit) {
			last++
		}
		if p.settled(s, err, last == lastTries) {
			return
		}
		log.Error("close a sandbox; it is tried again", "error", err, "after", pause)
		if last > 0 {
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

func (p *Pool[M]) closeOnce(s *place[M]) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	return s.member.Close(ctx)
}

// settled notes how a try to close has ended, and tells whether it was the
// last.
func (p *Pool[M]) settled(s *place[M], err error, last bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.fault = err
	if err != nil && !last {
		if !s.stuck {
			s.stuck = true
			close(s.tried)
		}
		p.admit() // who waited for this place may get another
		return false
	}
	if err != nil {
		p.left = append(p.left, fmt.Errorf("close sandbox %s of user %s: %w", s.member.ID(), s.user, err))
	}
	p.shut(s)
	p.vacate(s)
	p.admit()
	if s.why == errMemory {
		p.measure = true
		p.poke()
	}
	return true
}
