package workspace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// withAgents returns usual limits with so many agents.
func withAgents(n int) Limits {
	l := usual
	l.WarmAgents = n
	return l
}

// agent makes an agent wait for the user.
func (r *rig) agent(n int) *fakeAgent {
	r.Helper()
	var started *fakeAgent
	err := r.Warm(r.Context(), user(n), func(ctx context.Context, w *Workspace, waiting Agent) (Agent, error) {
		a, err := startAgent(ctx, w, waiting)
		started, _ = a.(*fakeAgent)
		return a, err
	})
	if err != nil {
		r.Fatal(err)
	}
	return started
}

func TestAnAgentWaitsForTheNextJob(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		b := r.warm(1)
		a := r.agent(1)
		if r.Agents() != 1 || r.WantsAgent(user(1)) || !r.List()[0].AgentWarm {
			t.Fatalf("%d agents, %+v", r.Agents(), r.List())
		}
		probes := b.probes
		l := r.lease(1)
		if got := l.Workspace().TakeAgent(); got != Agent(a) || !a.Alive(r.Context()) || b.probes != probes {
			t.Errorf("the job gets %v, which is alive: %v", got, a.Alive(r.Context()))
		}
		if l.Workspace().TakeAgent() != nil || r.Agents() != 0 {
			t.Error("it can be taken twice")
		}
		l.Release(r.Context())
		if a.Alive(r.Context()) {
			t.Error("it has outlived the job")
		}
	})
}

func TestAnAgentThatIsNotTakenEndsWithTheJob(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		r.warm(1)
		a := r.agent(1)
		r.warm(1)
		if a.Alive(r.Context()) || r.Agents() != 0 {
			t.Error("it still waits")
		}
	})
}

func TestAnAgentEndsBeforeAnythingElseStarts(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		b := r.warm(1)
		a := r.agent(1)
		l := r.lease(1)
		defer l.Release(r.Context())
		if _, err := l.Workspace().Start(r.Context(), sandbox.Command{}); err != nil || b.starts != 1 {
			t.Fatal(err, b.starts)
		}
		if a.Alive(r.Context()) || l.Workspace().TakeAgent() != nil {
			t.Error("it still waits")
		}
	})
}

func TestAnAgentThatHasEndedIsForgotten(t *testing.T) {
	for name, end := range map[string]func(*fakeAgent){
		"it has ended":                func(a *fakeAgent) { _ = a.End(context.Background()) },
		"the sandbox does not answer": func(a *fakeAgent) { a.deaf.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, withAgents(1), func(r *rig) {
				b := r.warm(1)
				a := r.agent(1)
				end(a)
				probes := b.probes
				l := r.lease(1)
				defer l.Release(r.Context())
				if l.Workspace().TakeAgent() != nil || b.probes != probes+1 || len(b.alive()) != 0 {
					t.Errorf("it is taken; %d probes", b.probes)
				}
			})
		})
	}
}

func TestAgentsAreBounded(t *testing.T) {
	limits := withAgents(2)
	limits.Max = 4
	inBubble(t, limits, func(r *rig) {
		var agents []*fakeAgent
		for n := range 3 {
			r.warm(n)
			time.Sleep(time.Second)
			agents = append(agents, r.agent(n))
		}
		r.want("0 idle, 1 idle, 2 idle")
		if agents[0].Alive(r.Context()) || !agents[1].Alive(r.Context()) || !agents[2].Alive(r.Context()) || r.Agents() != 2 {
			t.Errorf("%d agents wait", r.Agents())
		}
		r.Apply(Settings{Limits: withAgents(0)})
		synctest.Wait()
		if r.Agents() != 0 || agents[2].Alive(r.Context()) {
			t.Errorf("switched off, %d agents wait", r.Agents())
		}
		if a := r.agent(1); a != nil {
			t.Error("switched off, one is started")
		}
	})
}

func TestAgentsGiveWayToMemory(t *testing.T) {
	limits := withAgents(2)
	limits.MinFree = 1000
	inBubble(t, limits, func(r *rig) {
		r.warm(0)
		r.warm(1)
		a := []*fakeAgent{r.agent(0), nil}
		time.Sleep(time.Second)
		a[1] = r.agent(1)
		a[0].size, a[1].size = 1, 1
		r.setFree(999)
		time.Sleep(memoryInterval)
		synctest.Wait()
		if r.want("0 idle, 1 idle"); a[0].Alive(r.Context()) || !a[1].Alive(r.Context()) {
			t.Error("the older agent must end, and only that one")
		}
		r.setFree(999)
		time.Sleep(memoryInterval)
		if r.want("0 idle, 1 idle"); a[1].Alive(r.Context()) {
			t.Error("the other agent must end before a workspace is closed")
		}
		r.setFree(1000 + warmReserve - 1)
		if r.agent(0) != nil {
			t.Error("an agent is started without a reserve")
		}
		r.setFree(1000 + warmReserve)
		if r.agent(0) == nil {
			t.Error("none is started with enough memory")
		}
	})
}

func TestAnAgentIsStartedOnlyInAnIdleWorkspace(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		if r.agent(1) != nil || r.WantsAgent(user(1)) {
			t.Error("one is started without a workspace")
		}
		l := r.lease(1)
		if r.agent(1) != nil || r.WantsAgent(user(1)) {
			t.Error("one is started beside a job")
		}
		l.Release(r.Context())
		if !r.WantsAgent(user(1)) || r.WantsAgent(user(1)) {
			t.Error("an idle workspace wants one, and says it once")
		}
		time.Sleep(hintPause)
		if !r.WantsAgent(user(1)) {
			t.Error("it never says it again")
		}
	})
}

func TestAnAgentDoesNotKeepAWorkspaceInUse(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		r.warm(1)
		time.Sleep(usual.Idle - time.Second)
		a := r.agent(1)
		time.Sleep(2 * time.Second)
		r.want("")
		if a.Alive(r.Context()) {
			t.Error("it has outlived the workspace")
		}
	})
}

func TestAJobWaitsForTheStartOfItsAgent(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		r.warm(1)
		begun, gate := make(chan struct{}), make(chan struct{})
		go r.Warm(r.Context(), user(1), func(ctx context.Context, w *Workspace, waiting Agent) (Agent, error) { //nolint:errcheck // the job shows it
			close(begun)
			<-gate
			return startAgent(ctx, w, waiting)
		})
		<-begun
		job := r.leaseLater(r.Context(), 1)
		close(gate)
		l := <-job
		defer l.Release(r.Context())
		if l.Workspace().TakeAgent() == nil {
			t.Error("it does not get the agent")
		}
	})
}

func TestAStartThatFailsLeavesACleanWorkspace(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		b := r.warm(1)
		cleans := b.cleans
		var lost Agent
		err := r.Warm(r.Context(), user(1), func(ctx context.Context, w *Workspace, waiting Agent) (Agent, error) {
			lost, _ = startAgent(ctx, w, waiting)
			return nil, errBroken
		})
		if !errors.Is(err, errBroken) || b.cleans != cleans+1 || lost.Alive(r.Context()) || r.Agents() != 0 {
			t.Errorf("%v, %d cleanings", err, b.cleans)
		}
		r.want("1 idle")
	})
}

func TestAStartThatPanicsClosesTheWorkspace(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		r.warm(1)
		func() {
			defer func() { _ = recover() }()
			_ = r.Warm(r.Context(), user(1), func(context.Context, *Workspace, Agent) (Agent, error) { panic("boom") })
		}()
		r.want("")
	})
}

func TestAnAgentMayStayOrLeave(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		r.warm(1)
		a := r.agent(1)
		warm := func(f func(Agent) Agent) {
			t.Helper()
			err := r.Warm(r.Context(), user(1), func(_ context.Context, _ *Workspace, waiting Agent) (Agent, error) { return f(waiting), nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		warm(func(waiting Agent) Agent { return waiting })
		if !a.Alive(r.Context()) || r.Agents() != 1 {
			t.Error("it did not stay")
		}
		warm(func(Agent) Agent { return nil })
		if a.Alive(r.Context()) || r.Agents() != 0 {
			t.Error("it did not leave")
		}
	})
}

func TestNoAgentIsStartedInAPoolThatCloses(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		r.warm(1)
		a := r.agent(1)
		if err := r.Close(r.Context()); err != nil || a.Alive(r.Context()) {
			t.Errorf("%v, alive %v", err, a.Alive(r.Context()))
		}
		err := r.Warm(r.Context(), user(1), startAgent)
		if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeBusy {
			t.Error(err)
		}
	})
}

// fickleAgent ends when it is asked for the third time whether it has.
type fickleAgent struct {
	*fakeAgent
	asked int
}

func (a *fickleAgent) Done() <-chan struct{} {
	if a.asked++; a.asked == 3 {
		close(a.done)
	}
	return a.done
}

func TestAgentsMayEndWhileTheOldestIsSought(t *testing.T) {
	inBubble(t, withAgents(2), func(r *rig) {
		for n := range 2 {
			b := r.warm(n + 1)
			r.entries[user(n+1)].workspace.warm.Store(&warm{&fickleAgent{fakeAgent: &fakeAgent{box: b, done: make(chan struct{})}}, time.Now(), false})
		}
		r.Apply(Settings{Limits: withAgents(0)})
		synctest.Wait()
		if n := r.Agents(); n > 0 {
			t.Errorf("%d agents wait", n)
		}
	})
}

func TestAHintEndsNoAgentThatHasJustBegunToWait(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		r.warm(1)
		r.warm(2)
		r.agent(1)
		if r.WantsAgent(user(2)) {
			t.Error("one that waits only now would be ended")
		}
		time.Sleep(hintAge)
		if !r.WantsAgent(user(2)) {
			t.Error("one that nobody has needed stays")
		}
	})
}

func TestWarmMakesNoSandbox(t *testing.T) {
	inBubble(t, withAgents(1), func(r *rig) {
		b := r.warm(1)
		b.setStale()
		err := r.Warm(r.Context(), user(1), func(context.Context, *Workspace, Agent) (Agent, error) {
			t.Error("an agent is started in a sandbox that is about to be replaced")
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if list := r.List(); len(list) > 1 || len(list) == 1 && list[0].Sandbox != b.ID() {
			t.Errorf("%+v", list)
		}
	})
}
