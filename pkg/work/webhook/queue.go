package webhook

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"
)

// host holds the messages for one origin. Its workers share nothing with those of
// other hosts, so a host that does not answer delays no other one.
type host struct {
	origin   string
	messages []*message       // in the order of their arrival
	paths    map[string]*path // of addresses whose last attempt failed
	workers  int
	changed  chan struct{} // closed and replaced when messages or paths have changed
}

// path is an address that fails. It is tried with one message at a time, less and
// less often, however many wait for it.
type path struct {
	failures int // in a row
	until    time.Time
	trying   *message // is being sent, the others wait for its outcome; may be nil
}

// Pauses before the next attempt: of a message, and of an address.
const (
	firstPause    = 5 * time.Second
	longestPause  = 6 * time.Hour
	pauseFactor   = 4
	firstRest     = time.Second
	longestRest   = time.Minute
	restFactor    = 2
	jitter        = 0.2       // share of a pause by which it may be longer or shorter
	longestAdvice = time.Hour // of a receiver, in Retry-After
)

// pauseAfter returns the pause after n attempts in a row have failed.
func pauseAfter(n int, first, longest time.Duration, factor int) time.Duration {
	d := first
	for range n - 1 {
		if d *= time.Duration(factor); d >= longest {
			d = longest
			break
		}
	}
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}

// enqueue adds a message that is on the disk. It must be called with mu held.
func (s *Service) enqueue(m *message) {
	u, err := url.Parse(m.URL)
	if err != nil {
		panic(err) // it was parsed before
	}
	at := origin(u)
	h := s.hosts[at]
	if h == nil {
		h = &host{origin: at, paths: map[string]*path{}, changed: make(chan struct{})}
		s.hosts[at] = h
	}
	h.messages = append(h.messages, m)
	h.wake()
	if h.workers < min(workersAHost, len(h.messages)) && !s.closed {
		h.workers++
		s.wg.Go(func() { s.work(h) })
	}
}

// wake makes the workers look. It must be called with mu held.
func (h *host) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// remove takes a message out. It must be called with mu held.
func (h *host) remove(m *message) {
	others := false
	for i := 0; i < len(h.messages); i++ {
		switch {
		case h.messages[i] == m:
			h.messages = append(h.messages[:i], h.messages[i+1:]...)
			i--
		case h.messages[i].URL == m.URL:
			others = true
		}
	}
	if !others {
		delete(h.paths, m.URL)
	}
	h.wake()
}

// work sends messages of a host until there are none.
func (s *Service) work(h *host) {
	for {
		m, wait, changed := s.next(h)
		switch {
		case m != nil:
			s.deliver(h, m)
			continue
		case changed == nil:
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-s.run.Done():
		}
		timer.Stop()
	}
}

// next returns the message to send now. If none is due, it returns how long to
// wait and a channel that is closed when that may have changed, or no channel if
// the worker is to end.
func (s *Service) next(h *host) (due *message, wait time.Duration, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(h.messages) == 0 || s.closed {
		if h.workers--; h.workers == 0 && len(h.messages) == 0 && s.hosts[h.origin] == h {
			delete(s.hosts, h.origin)
		}
		return nil, 0, nil
	}
	now := time.Now()
	wait = longestPause
	var earliest time.Time
	for _, m := range h.messages {
		at, p := m.Next, h.paths[m.URL]
		if m.busy || p != nil && p.trying != nil {
			continue // settle wakes the workers
		}
		if p != nil && p.until.After(at) {
			at = p.until
		}
		if at.After(now) {
			wait = min(wait, at.Sub(now))
			continue
		}
		if due == nil || m.Next.Before(earliest) {
			due, earliest = m, m.Next
		}
	}
	if due != nil {
		due.busy = true
		if p := h.paths[due.URL]; p != nil {
			p.trying = due
		}
	}
	return due, wait, h.changed
}

// excess returns the message that is too much after one to an address was added, or
// nil: the oldest of that address, or of the address with the most messages. One
// that is being sent stays. It must be called with mu held.
func (s *Service) excess(added string) *message {
	total, counts, oldest := 0, map[string]int{}, map[string]*message{}
	for _, h := range s.hosts {
		total += len(h.messages)
		for _, m := range h.messages {
			counts[m.URL]++
			if o := oldest[m.URL]; !m.busy && (o == nil || m.Created.Before(o.Created)) {
				oldest[m.URL] = m
			}
		}
	}
	most := added
	if counts[added] <= maxPerURL {
		if total <= maxMessages {
			return nil
		}
		for address, n := range counts {
			if n > counts[most] {
				most = address
			}
		}
	}
	return oldest[most]
}

// discard drops a message that was not delivered. It must be called with mu held.
func (s *Service) discard(m *message, why string) {
	u, err := url.Parse(m.URL)
	if err != nil {
		panic(err) // it was parsed before
	}
	if h := s.hosts[origin(u)]; h != nil {
		h.remove(m)
	}
	s.log.Error("a webhook message is dropped", "reason", why, "webhook", origin(u), "event", m.Event, "job", m.Job, "attempts", m.Attempts)
	s.opts.Observe(Dropped, 0)
	if err := s.outbox.remove(m); err != nil {
		s.log.Error("remove a webhook message", "error", err)
	}
}

// settle records the outcome of an attempt.
func (s *Service) settle(h *host, m *message, r result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.busy = false
	// An attempt that began before the address failed does not end the one after it.
	if p := h.paths[m.URL]; p != nil && p.trying == m {
		p.trying = nil
	}
	if r.interrupted || m.forgotten { // the file of a forgotten one must not come back
		h.wake()
		return
	}
	if r.err == nil {
		if p := h.paths[m.URL]; p != nil && p.failures > 1 {
			s.log.Info("a webhook is delivered again", "webhook", h.origin)
		}
		delete(h.paths, m.URL)
		h.remove(m)
		if err := s.outbox.remove(m); err != nil {
			s.log.Error("remove a webhook message", "error", err)
		}
		return
	}
	m.Attempts++
	s.rest(h, m, r)
	pause := max(pauseAfter(m.Attempts, firstPause, longestPause, pauseFactor), min(r.after, longestAdvice))
	m.Next = time.Now().Add(pause)
	switch {
	case r.final:
		s.discard(m, r.err.Error())
	case m.Attempts >= MaxAttempts, m.Next.Sub(m.Created) > MaxAge:
		s.discard(m, fmt.Sprintf("not accepted in time: %v", r.err))
	case r.body == nil: // an update would lose it
		h.wake()
	default:
		if err := s.outbox.update(m, r.body); err != nil {
			s.log.Warn("note the attempts of a webhook message", "error", err)
		}
		h.wake()
	}
}

// rest makes an address that failed wait. The first failure in a row is logged. It
// must be called with mu held.
func (s *Service) rest(h *host, m *message, r result) {
	p := h.paths[m.URL]
	if p == nil {
		p = &path{}
		h.paths[m.URL] = p
		s.log.Warn("a webhook is not delivered; it is sent again", "webhook", h.origin, "event", m.Event, "job", m.Job, "error", r.err)
	} else {
		s.log.Debug("a webhook is not delivered; it is sent again", "webhook", h.origin, "event", m.Event, "job", m.Job, "error", r.err)
	}
	p.failures++
	p.until = time.Now().Add(max(pauseAfter(p.failures, firstRest, longestRest, restFactor), min(r.after, longestAdvice)))
}
