package workspace

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// TestAProgramOfTheOperatorDoesNotStartDuringTheCleaning, which would end it.
func TestAProgramOfTheOperatorDoesNotStartDuringTheCleaning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(1)
		p, err := newTestPool(m, Limits{Max: 1, Idle: time.Hour, MaxAge: time.Hour}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p.template.Store(&Template{})
		p.env.Store(&[]string{})
		lease, err := p.Lease(t.Context(), user(1))
		if err != nil {
			t.Fatal(err)
		}
		b := boxOf(lease)
		exec := func() {
			if _, err := p.Exec(t.Context(), Name(user(1)), sandbox.Command{Args: []string{"true"}}); err != nil {
				t.Error(err)
			}
		}
		exec() // beside the job
		cleaned := make(chan struct{})
		m.cleaningStep.set(func(context.Context, *box) error { <-cleaned; return nil })
		go lease.Release(t.Context())
		synctest.Wait()
		go exec()
		synctest.Wait()
		m.mu.Lock()
		if b.starts != 1 {
			t.Errorf("%d programs were started", b.starts)
		}
		m.mu.Unlock()
		close(cleaned)
		synctest.Wait()
		m.mu.Lock()
		if b.starts != 2 {
			t.Errorf("%d programs were started after the cleaning", b.starts)
		}
		m.mu.Unlock()
		// Neither does it while an agent is started ahead, which then ends.
		p.mu.Lock()
		p.limits.WarmAgents = 1
		p.mu.Unlock()
		started := make(chan struct{})
		m.cleaningStep.set(nil)
		go func() {
			if err := p.Warm(t.Context(), user(1), func(ctx context.Context, w *Workspace, a Agent) (Agent, error) {
				<-started
				return startAgent(ctx, w, a)
			}); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		go exec()
		synctest.Wait()
		m.mu.Lock()
		if b.starts != 2 {
			t.Errorf("%d programs were started", b.starts)
		}
		m.mu.Unlock()
		close(started)
		synctest.Wait()
		m.mu.Lock()
		if b.starts != 3 || len(b.alive()) != 0 {
			t.Errorf("%d programs were started, %d agents wait beside them", b.starts, len(b.alive()))
		}
		m.mu.Unlock()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		m.end(t)
	})
}
