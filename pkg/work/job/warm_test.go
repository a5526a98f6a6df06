package job

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// waiters are agents that wait for their prompts, as the CLI does, and note what
// happens to them.
type waiters struct {
	mu     sync.Mutex
	starts []string     // "new ID" or "resume ID"
	early  []int        // status of a request to the model before the prompt
	asked  []int        // and after it
	fail   func() error // what the next one does at its prompt
	deaf   func() error // what the next one does at its start
}

func (w *waiters) play(g guest) (int, error) {
	start := "new " + g.arg("--session-id")
	if id := g.arg("--resume"); id != "" {
		start = "resume " + id
	}
	w.mu.Lock()
	deaf := w.deaf
	w.deaf = nil
	w.mu.Unlock()
	if deaf != nil {
		return 1, deaf()
	}
	early, _, err := g.ask(question)
	if err != nil {
		return 0, err
	}
	w.note(func() { w.starts, w.early = append(w.starts, start), append(w.early, early) })
	if _, err := g.prompt(); err != nil {
		return 137, nil
	}
	w.mu.Lock()
	fail := w.fail
	w.fail = nil
	w.mu.Unlock()
	if fail != nil {
		return 1, fail()
	}
	asked, _, err := g.ask(question)
	w.note(func() { w.asked = append(w.asked, asked) })
	if err := errors.Join(err, g.converse()); err != nil {
		return 0, err
	}
	return makesGame(g)
}

func (w *waiters) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *waiters) started() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.starts)
}

func answeringModel(t *testing.T) gateway.Upstream {
	t.Helper()
	script, err := replay.Parse([]byte(`{"conversations":[[{"text":"x"}]]}`))
	if err != nil {
		t.Fatal(err)
	}
	return gateway.HandlerUpstream(replay.New(script))
}

// warmRig is a rig whose agents wait, with counts of how jobs got theirs.
func warmRig(t *testing.T, o options) (*rig, *waiters, func() string) {
	t.Helper()
	w := &waiters{}
	o.play, o.agents = w.play, 2
	if o.upstream == nil {
		o.upstream = answeringModel(t)
	}
	var mu sync.Mutex
	var got []string
	parts := o.parts
	o.parts = func(p *Parts) {
		p.AgentStarted = func(how AgentStart) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(how))
		}
		if parts != nil {
			parts(p)
		}
	}
	return newRig(t, o), w, func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(got, " ")
	}
}

// workspaceSettings returns those of the rig with so many agents.
func workspaceSettings(r *rig, agents int) workspace.Settings {
	s := r.pooling
	s.WarmAgents = agents
	return s
}

// settle waits for so many starts of agents, the last of which waits.
func (r *rig) settle(w *waiters, starts int) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if len(w.started()) == starts && r.parts.Workspaces.Agents() == 1 {
			return
		}
	}
	r.t.Fatalf("%d agents wait, started: %q\n%s", r.parts.Workspaces.Agents(), w.started(), r.log)
}

func TestAJobTakesTheAgentThatWaited(t *testing.T) {
	r, w, how := warmRig(t, options{})
	r.run(request(alice, "one"))
	r.settle(w, 2)
	events := r.run(request(alice, "two"))
	r.settle(w, 3)
	if how() != "cold warm" {
		t.Errorf("agents: %s", how())
	}
	starts := w.started()
	id := strings.TrimPrefix(starts[0], "new ")
	if starts[1] != "resume "+id || starts[2] != "resume "+id {
		t.Errorf("conversations: %q", starts)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// A cold run has its token at once.
	if !slices.Equal(w.early, []int{200, http.StatusUnauthorized, http.StatusUnauthorized}) || !slices.Equal(w.asked, []int{200, 200}) {
		t.Errorf("the model answers %v before the prompt and %v after it", w.early, w.asked)
	}
	if !events[len(events)-2].Warm {
		t.Errorf("events: %+v", events)
	}
}

func TestPrewarmMakesTheFirstAgent(t *testing.T) {
	r, w, how := warmRig(t, options{})
	if _, err := r.parts.Workspaces.Prewarm(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	r.service.Warm(t.Context(), alice, project)
	r.settle(w, 1)
	r.service.Warm(t.Context(), alice, project) // changes nothing
	r.run(request(alice, "one"))
	r.settle(w, 2)
	r.run(request(alice, "two"))
	r.settle(w, 3)
	starts := w.started()
	if id := strings.TrimPrefix(starts[0], "new "); how() != "warm warm" || starts[1] != "resume "+id {
		t.Errorf("%s, %q", how(), starts)
	}
}

func TestAHintCreatesNothing(t *testing.T) {
	r, w, _ := warmRig(t, options{})
	r.service.Hint(alice, project)
	if _, err := r.parts.Workspaces.Prewarm(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	r.service.warmUp(t.Context(), alice, project, false)
	if _, err := r.parts.Volumes.Find(alice, project); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || len(w.started()) != 0 {
		t.Errorf("%v, %q", err, w.started())
	}
	r.run(request(alice, "one"))
	r.settle(w, 2)
	r.parts.Workspaces.Apply(workspaceSettings(r, 0))
	r.parts.Workspaces.Apply(workspaceSettings(r, 2))
	for end := time.Now().Add(10 * time.Second); r.parts.Workspaces.Agents() != 1 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		r.service.Hint(alice, project)
	}
	r.settle(w, 3)
}

func TestAnAgentThatDoesNotFitIsNotUsed(t *testing.T) {
	for name, change := range map[string]func(r *rig) error{
		"another model": func(r *rig) error {
			s := *r.service.settings.Load()
			s.Agent.Model = "other"
			r.service.Apply(s)
			return nil
		},
		"a new skill": func(r *rig) error {
			dir := filepath.Join(r.service.skillsPath(), "skills", "p5js")
			return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "SKILL.md"), []byte("x"), 0o644))
		},
		"a conversation that was forgotten": func(r *rig) error {
			h, err := r.parts.Volumes.Home(alice, project)
			if err != nil {
				return err
			}
			return errors.Join(h.SetSession(""), h.Close())
		},
		"another time limit": func(r *rig) error {
			s := *r.service.settings.Load()
			s.TimeLimit += time.Minute
			r.service.Apply(s)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, w, how := warmRig(t, options{})
			r.run(request(alice, "one"))
			r.settle(w, 2)
			if err := change(r); err != nil {
				t.Fatal(err)
			}
			r.run(request(alice, "two"))
			r.settle(w, 4)
			if how() != "cold changed" {
				t.Errorf("agents: %s", how())
			}
		})
	}
}

// An agent that waited and fails before it has asked the model anything is replaced,
// and the conversation goes on.
func TestAnAgentThatFailsAtItsPromptIsReplaced(t *testing.T) {
	r, w, how := warmRig(t, options{})
	r.run(request(alice, "one"))
	r.settle(w, 2)
	w.note(func() {
		w.fail = func() error { return nil }
	})
	r.run(request(alice, "two"))
	r.settle(w, 4)
	starts := w.started()
	if how() != "cold warm" || starts[2] != starts[1] || starts[3] != starts[1] {
		t.Errorf("%s, %q", how(), starts)
	}
}

func TestAnAgentThatIsLostWithItsSandboxIsReplaced(t *testing.T) {
	r, w, how := warmRig(t, options{})
	r.run(request(alice, "one"))
	r.settle(w, 2)
	r.mu.Lock()
	lost := r.made[0]
	r.mu.Unlock()
	if err := lost.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.run(request(alice, "two"))
	r.settle(w, 4)
	if how() != "cold cold" || w.started()[2] != w.started()[1] {
		t.Errorf("%s, %q", how(), w.started())
	}
}

// A sandbox that is lost between the look at it and the job's first question to the
// model is replaced, with an agent that waits in it and without one.
func TestASandboxThatIsLostBeforeTheFirstQuestionIsReplaced(t *testing.T) {
	for name, test := range map[string]struct {
		agents int
		lose   func(r *rig, w *waiters, sb *sandboxtest.Fake)
	}{
		"at the end of an agent that does not fit": {2, func(r *rig, _ *waiters, _ *sandboxtest.Fake) {
			s := *r.service.settings.Load()
			s.Agent.Model = "other"
			r.service.Apply(s)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lose = true
		}},
		"at the prompt of an agent that waits": {2, func(_ *rig, w *waiters, sb *sandboxtest.Fake) {
			w.note(func() { w.fail = func() error { return closing(sb) } })
		}},
		"at the start of an agent": {0, func(_ *rig, w *waiters, sb *sandboxtest.Fake) {
			w.note(func() { w.deaf = func() error { return closing(sb) } })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r, w, _ := warmRig(t, options{})
			r.wrap = func(sb sandbox.Sandbox) sandbox.Sandbox { return mortal{sb.(*sandboxtest.Fake), r} }
			r.parts.Workspaces.Apply(workspaceSettings(r, test.agents))
			r.run(request(alice, "one"))
			if test.agents > 0 {
				r.settle(w, 2)
			}
			r.mu.Lock()
			first := r.made[0]
			r.mu.Unlock()
			test.lose(r, w, first)
			if last, debug := r.ends(r.run(request(alice, "two"))); last.Type != "done" || debug.Reused {
				t.Errorf("%+v %+v\n%s", last, debug, r.log)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.made) != 2 || first.Closes() == 0 {
				t.Errorf("%d sandboxes, the first closed %d times\n%s", len(r.made), first.Closes(), r.log)
			}
		})
	}
}

// closing ends the sandbox of the program that calls it.
func closing(sb *sandboxtest.Fake) error {
	go func() { _ = sb.Close(context.Background()) }()
	<-sb.Lost()
	return nil
}

// mortal is a sandbox that ends instead of ending processes if lose is set.
type mortal struct {
	*sandboxtest.Fake
	rig *rig
}

func (m mortal) EndUser(ctx context.Context, uid uint32) error {
	m.rig.mu.Lock()
	lose := m.rig.lose
	m.rig.lose = false
	m.rig.mu.Unlock()
	if lose {
		return errors.Join(sandbox.ErrLost, m.Close(ctx))
	}
	return m.Fake.EndUser(ctx, uid)
}

// A project that is in use has no agent that waits, and none is waited for.
func TestNoAgentIsStartedInAProjectThatIsInUse(t *testing.T) {
	r, w, _ := warmRig(t, options{})
	r.run(request(alice, "one"))
	r.settle(w, 2)
	unlock, err := r.parts.Volumes.Lock(t.Context(), alice, project)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := r.service.warm(t.Context(), alice, project, true); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Error(err)
	}
}

func TestNoAgentIsStartedAheadOnABusyMachine(t *testing.T) {
	r, w, _ := warmRig(t, options{settings: func(s *Settings) { s.Running = 1 }})
	if _, err := r.parts.Workspaces.Prewarm(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	r.playing(untilStopped)
	id := r.submit(request(bob, "long"))
	r.until(id, isType("began"))
	r.playing(w.play)
	r.service.Warm(t.Context(), alice, project)
	if n := r.parts.Workspaces.Agents(); n != 0 {
		t.Errorf("%d agents wait", n)
	}
	r.service.Cancel(id)
	r.events(id)
	r.service.Warm(t.Context(), alice, project)
	r.settle(w, 1)
}
