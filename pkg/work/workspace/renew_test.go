package workspace

import (
	"context"
	"testing"
	"time"
)

// A sandbox keeps what it has seen of a project that is deleted.
func TestARenewedWorkspaceIsNotUsedAgain(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		inBubble(t, usual, func(r *rig) {
			old, other := r.warm(1), r.warm(2)
			if err := r.Renew(r.Context(), user(1)); err != nil {
				r.Error(err)
			}
			if !old.isClosed() || other.isClosed() {
				r.Error("Renew has not closed the idle sandbox of this user alone")
			}
			r.want("2 idle")
			if err := r.Renew(r.Context(), user(1)); err != nil {
				r.Error("without a sandbox: ", err)
			}
		})
	})
	t.Run("in use", func(t *testing.T) {
		inBubble(t, usual, func(r *rig) {
			l := r.lease(1)
			if err := r.Renew(r.Context(), user(1)); err != nil {
				r.Error(err)
			}
			if l.Context().Err() != nil || boxOf(l).isClosed() {
				r.Error("a job of another project was cut")
			}
			l.Release(r.Context())
			r.want("")
			if !boxOf(l).isClosed() {
				r.Error("the sandbox is pooled again")
			}
			next := r.lease(1)
			next.Release(r.Context())
			r.want("1 idle")
		})
	})
	t.Run("starting", func(t *testing.T) {
		inBubble(t, usual, func(r *rig) {
			r.creatingStep.set(takes(time.Second))
			later := r.leaseLater(r.Context(), 1)
			time.Sleep(time.Second / 2)
			if err := r.Renew(context.Background(), user(1)); err != nil {
				r.Error(err)
			}
			l := <-later
			if l == nil || l.Context().Err() != nil {
				r.Fatal("the job was cut")
			}
			l.Release(r.Context())
			r.want("")
		})
	})
}
