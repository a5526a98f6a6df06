package workspace

import (
	"context"
	"fmt"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// waiter is a request for a user's workspace. The pool's lock guards its fields
// until ready is closed.
type waiter struct {
	user    dreamcore.UserID
	prewarm bool          // fails instead of waiting for leases to end
	idle    bool          // only an idle workspace will do; nothing is created or closed
	ready   chan struct{} // closed when the fields below are set
	entry   *entry        // held by the waiter; nil if there is nothing to do
	err     error
}

func (w *waiter) answer(e *entry, err error) {
	w.entry, w.err = e, err
	close(w.ready)
}

// enqueue puts w into the queue. It must be called with mu held.
func (p *Pool) enqueue(w *waiter, at int) {
	w.ready = make(chan struct{})
	if p.closing {
		w.answer(nil, closedError())
		return
	}
	p.queue = slices.Insert(p.queue, at, w)
}

// await returns the entry that w gets: with a warm workspace, or to be filled.
func (p *Pool) await(ctx context.Context, w *waiter) (*entry, error) {
	select {
	case <-w.ready:
		return w.entry, w.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, w); i >= 0 {
		// No other waiter can be served now: w would have been served first.
		p.queue = slices.Delete(p.queue, i, i+1)
		return nil, fmt.Errorf("wait for a sandbox: %w", context.Cause(ctx))
	}
	return w.entry, w.err // the answer came first
}

// round is one pass through the queue.
type round struct {
	free   int                       // slots for new entries now
	soon   int                       // those, and the slots that are about to be free
	served map[dreamcore.UserID]bool // users for whom a slot is being freed
}

// admit serves the waiters in order, and closes idle workspaces for those that
// need a slot. It must be called, with mu held, whenever an entry, a workspace
// or the queue has changed.
func (p *Pool) admit() {
	if len(p.queue) == 0 {
		return
	}
	r := round{free: p.limits.Max - len(p.entries), served: map[dreamcore.UserID]bool{}}
	r.soon = r.free
	for _, e := range p.entries {
		if e.freeSoon() {
			r.soon++
		}
	}
	p.queue = slices.DeleteFunc(p.queue, func(w *waiter) bool { return p.serve(w, &r) })
}

// freeSoon reports whether the slot of the entry is about to be free. A
// workspace whose close has failed may take forever, and a holder as long as it
// likes.
func (e *entry) freeSoon() bool {
	return e.state == StateClosing && !e.failing && !e.held
}

// serve reports whether w has its answer.
func (p *Pool) serve(w *waiter, r *round) bool {
	e := p.entries[w.user]
	if w.idle && (e == nil || e.state != StateIdle || p.unfit(e) != nil) {
		w.answer(nil, nil)
		return true
	}
	if e != nil && e.state == StateIdle {
		why := p.unfit(e)
		if why == nil {
			e.state, e.held = StateLeased, true
			w.answer(e, nil)
			return true
		}
		p.end(e, why)
		r.soon++
	}
	switch {
	case e != nil && e.state != StateClosing: // it has another holder
		if w.prewarm {
			w.answer(nil, nil)
		}
		return w.prewarm
	case r.served[w.user], e != nil && !e.freeSoon():
		return p.refuse(w)
	case e == nil && r.free > 0:
		r.free--
		r.soon--
		w.answer(p.reserve(w.user), nil)
		return true
	}
	r.served[w.user] = true
	switch {
	case r.soon > 0:
		r.soon--
		return false
	case p.evict(errEvicted): // w gets that slot
		return false
	}
	return p.refuse(w)
}

// refuse answers a prewarm, which does not wait. It reports whether w is one.
func (p *Pool) refuse(w *waiter) bool {
	if w.prewarm {
		w.answer(nil, &dreamcore.Error{
			Code: dreamcore.CodeBusy, Message: fmt.Sprintf("no slot for another sandbox: all %d are in use", p.limits.Max),
			Hint: "try again after a job has ended (dreamcore ps lists the sandboxes), or raise max_sandboxes",
		})
	}
	return w.prewarm
}
