package workspace

import (
	"context"
	"fmt"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// waiter wants the member of a user. Its fields are guarded by the pool's lock
// until ready is closed.
type waiter[M Member] struct {
	user    dreamcore.UserID
	prewarm bool          // does not wait for leases to end
	ready   chan struct{} // closed with the answer
	place   *place[M]     // in the waiter's hand; nil when it need do nothing
	err     error
}

func (w *waiter[M]) answer(s *place[M], err error) {
	w.place, w.err = s, err
	close(w.ready)
}

// enter puts w into the queue. It is called with the lock held.
func (p *Pool[M]) enter(w *waiter[M], at int) {
	w.ready = make(chan struct{})
	if p.closing {
		w.answer(nil, closedError())
		return
	}
	p.queue = slices.Insert(p.queue, at, w)
}

// await returns the place of the user when it can be had: with a warm member,
// or to be filled.
func (p *Pool[M]) await(ctx context.Context, w *waiter[M]) (*place[M], error) {
	select {
	case <-w.ready:
		return w.place, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, w); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1) // which helps nobody: had there been a place, w had it
		return nil, fmt.Errorf("wait for a sandbox: %w", context.Cause(ctx))
	}
	return w.place, w.err // the answer came first
}

// round is one walk along the queue.
type round struct {
	free  int                       // places that can be taken now
	soon  int                       // those, and the ones that are being freed
	asked map[dreamcore.UserID]bool // users for whom a place is on its way
}

// admit serves those who wait, in order, and closes idle members for those who
// need a place. It is called, with the lock held, whenever a place, a member
// or the queue has changed.
func (p *Pool[M]) admit() {
	if len(p.queue) == 0 {
		return
	}
	r := round{free: p.limits.Max - len(p.places), asked: map[dreamcore.UserID]bool{}}
	r.soon = r.free
	for _, s := range p.places {
		if s.foreseeable() {
			r.soon++
		}
	}
	p.queue = slices.DeleteFunc(p.queue, func(w *waiter[M]) bool { return p.serve(w, &r) })
}

// foreseeable tells whether the place is about to be free. One whose closing
// failed may take for ever, one that is held, as long as the holder likes.
func (s *place[M]) foreseeable() bool {
	return s.state == StateClosing && !s.stuck && !s.held
}

// serve tells whether w has its answer.
func (p *Pool[M]) serve(w *waiter[M], r *round) bool {
	s := p.places[w.user]
	if s != nil && s.state == StateIdle {
		why := p.unfit(s)
		if why == nil {
			s.state, s.held = StateLeased, true
			w.answer(s, nil)
			return true
		}
		p.end(s, why)
		r.soon++
	}
	switch {
	case s != nil && s.state != StateClosing: // another holder's
		if w.prewarm {
			w.answer(nil, nil)
		}
		return w.prewarm
	case r.asked[w.user], s != nil && !s.foreseeable():
		return p.refuse(w)
	case s == nil && r.free > 0:
		r.free--
		r.soon--
		w.answer(p.take(w.user), nil)
		return true
	}
	r.asked[w.user] = true
	switch {
	case r.soon > 0:
		r.soon--
		return false
	case p.evict(errEvicted): // its place will be w's
		return false
	}
	return p.refuse(w)
}

// refuse answers a waiter that does not wait.
func (p *Pool[M]) refuse(w *waiter[M]) bool {
	if w.prewarm {
		w.answer(nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Message: fmt.Sprintf("no place for another sandbox: all %d are taken", p.limits.Max),
			Hint: "try again when a job has ended (dreamcore ps lists the sandboxes), or raise their number in the settings",
		})
	}
	return w.prewarm
}
