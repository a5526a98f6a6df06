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
		started := func(want int) {
			t.Helper()
			m.mu.Lock()
			defer m.mu.Unlock()
			if b.starts != want {
				t.Errorf("%d programs were started, not %d", b.starts, want)
			}
		}
		exec() // beside the job
		cleaned := make(chan struct{})
		m.cleaningStep.set(func(context.Context, *box) error { <-cleaned; return nil })
		go lease.Release(t.Context())
		synctest.Wait()
		go exec()
		synctest.Wait()
		started(1)
		close(cleaned)
		synctest.Wait()
		started(2)
		// Neither does it while an agent is started ahead, which then ends.
		p.mu.Lock()
		p.limits.WarmAgents = 1
		p.mu.Unlock()
		begin := make(chan struct{})
		m.cleaningStep.set(nil)
		go func() {
			if err := p.Warm(t.Context(), user(1), func(ctx context.Context, w *Workspace, a Agent) (Agent, error) {
				<-begin
				return startAgent(ctx, w, a)
			}); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		go exec()
		synctest.Wait()
		started(2)
		close(begin)
		synctest.Wait()
		started(3)
		m.mu.Lock()
		if n := len(b.alive()); n != 0 {
			t.Errorf("%d agents wait beside them", n)
		}
		m.mu.Unlock()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		m.end(t)
	})
}
