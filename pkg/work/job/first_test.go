package job

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// lateRig is a rig with one standby sandbox, in which an agent waits.
type lateRig struct {
	*rig
	waiters *waiters
	how     func() string

	mu     sync.Mutex
	bound  map[string][]sandbox.Mount // by the directory of the sockets
	refuse bool                       // agents cannot be claimed
	deaf   chan struct{}              // they do not answer a claim, and close this
	fails  bool                       // homes cannot be mounted
	claims int                        // of agents
}

// lateBox is a fake sandbox that gets its user later.
type lateBox struct {
	sandbox.Sandbox
	rig *lateRig
	id  string
	key string
}

func (b lateBox) ID() string { return b.id }

func (b lateBox) Bind(_ context.Context, mounts []sandbox.Mount) error {
	b.rig.mu.Lock()
	defer b.rig.mu.Unlock()
	if b.rig.fails && len(b.rig.bound[b.key]) > 0 {
		return errors.New("no mount")
	}
	b.rig.bound[b.key] = append(b.rig.bound[b.key], mounts...)
	return nil
}

func newLateRig(t *testing.T) *lateRig {
	t.Helper()
	l := &lateRig{bound: map[string][]sandbox.Mount{}}
	l.rig, l.waiters, l.how = warmRig(t, options{late: true})
	l.rig.mu.Lock()
	l.play = l.agent
	l.wrap = func(sb sandbox.Sandbox) sandbox.Sandbox {
		spec := l.specs[len(l.specs)-1]
		return lateBox{sb, l, fmt.Sprintf("late-%d", len(l.specs)), spec.Mounts[len(spec.Mounts)-1].Source}
	}
	l.rig.mu.Unlock()
	return l
}

// ready makes a standby sandbox for the next user.
func (l *lateRig) ready() {
	l.t.Helper()
	s := l.pooling
	s.Standby = 1
	l.parts.Workspaces.Apply(s)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if len(l.parts.Workspaces.Standby()) > 0 {
			return
		}
	}
	l.t.Fatal("no standby sandbox comes")
}

// agent is the agent: it answers a rehearsal and waits for a claim if it was started before its user came.
func (l *lateRig) agent(g guest) (int, error) {
	if g.Dir == parkedDir {
		lines := bufio.NewReader(g.Stdin)
		first := make(chan string, 1)
		go func() {
			rehearsal, _ := lines.ReadString('\n')
			var r struct {
				ID string `json:"request_id"`
			}
			_ = json.Unmarshal([]byte(rehearsal), &r)
			g.say(`{"type":"control_response","response":{"request_id":"` + r.ID + `","response":{}}}` + "\n")
			line, _ := lines.ReadString('\n')
			first <- line
		}()
		var q struct {
			ID      string `json:"request_id"`
			Request struct {
				Dir string `json:"cwd"`
			}
		}
		select {
		case line := <-first:
			if err := json.Unmarshal([]byte(line), &q); err != nil {
				return 3, nil
			}
		case <-g.Killed:
			return 137, nil
		}
		l.mu.Lock()
		g.spec.Mounts, g.Dir = append(l.bound[g.sockets()], g.spec.Mounts...), q.Request.Dir
		refuse, deaf := l.refuse, l.deaf
		l.claims++
		l.mu.Unlock()
		if deaf != nil {
			close(deaf)
			<-g.Killed
			return 137, nil
		}
		status := "ok"
		if refuse {
			status = "rejected"
		}
		answer, err := json.Marshal(map[string]any{"type": "control_response", "response": map[string]any{"request_id": q.ID, "response": map[string]any{"status": status, "cwd": q.Request.Dir}}})
		if err != nil {
			return 0, err
		}
		g.Stdin = lines
		g.say(string(answer) + "\n")
	} else if late := l.boundTo(g); late != nil {
		g.spec.Mounts = append(late, g.spec.Mounts...)
	}
	return l.waiters.play(g)
}

func (l *lateRig) boundTo(g guest) []sandbox.Mount {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bound[g.sockets()]
}

// TestTheFirstGameOfAUserGetsTheAgentThatWaited: whoever the user is, and whatever the
// project; and the conversation goes on with the next job.
func TestTheFirstGameOfAUserGetsTheAgentThatWaited(t *testing.T) {
	l := newLateRig(t)
	l.ready()
	events := l.run(request(alice, "one"))
	if last, debug := l.ends(events); last.Type != "done" || !debug.Warm || debug.Reused || l.how() != "warm" {
		t.Fatalf("%+v %+v %s\n%s", last, debug, l.how(), l.log)
	}
	l.settle(l.waiters, 2) // the standby sandbox's next one comes later
	l.run(request(alice, "two"))
	starts := l.waiters.started()
	id := strings.TrimPrefix(starts[0], "new ")
	if l.how() != "warm warm" || starts[1] != "resume "+id {
		t.Errorf("%s, %q", l.how(), starts)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, mounts := range l.bound {
		if len(mounts) != 3 || mounts[2].Target != "/home/project" || mounts[2].Source != mounts[1].Source+"/"+string(project) {
			t.Errorf("mounted: %+v", mounts)
		}
	}
}

// TestAPrewarmedUserKeepsTheAgentThatWaited, which fits any project that begins.
func TestAPrewarmedUserKeepsTheAgentThatWaited(t *testing.T) {
	l := newLateRig(t)
	l.ready()
	if _, err := l.parts.Workspaces.Prewarm(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	l.service.Warm(t.Context(), alice, project)
	l.run(request(alice, "one"))
	l.mu.Lock()
	defer l.mu.Unlock()
	if starts := l.waiters.started(); l.how() != "warm" || l.claims != 1 || len(starts) == 0 || !strings.HasPrefix(starts[0], "new ") {
		t.Errorf("%s, %q, %d claims\n%s", l.how(), starts, l.claims, l.log)
	}
}

// TestACancelledJobStartsNoOtherAgent while it claims the one that waited.
func TestACancelledJobStartsNoOtherAgent(t *testing.T) {
	l := newLateRig(t)
	l.ready()
	l.mu.Lock()
	l.deaf = make(chan struct{})
	claimed := l.deaf
	l.mu.Unlock()
	id := l.submit(request(alice, "one"))
	<-claimed
	if err := l.service.Cancel(id); err != nil {
		t.Fatal(err)
	}
	l.events(id)
	if starts := l.waiters.started(); len(starts) != 0 || l.how() != "" || strings.Contains(l.log.String(), "another one is started") {
		t.Errorf("%q, %s\n%s", starts, l.how(), l.log)
	}
}

// TestNothingOfAnEarlierRunIsInTheHome of an agent that is claimed.
func TestNothingOfAnEarlierRunIsInTheHome(t *testing.T) {
	l := newLateRig(t)
	h, err := l.parts.Volumes.Home(alice, project)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.Root().WriteFile(".bashrc", []byte("x"), 0o644), h.Close()); err != nil {
		t.Fatal(err)
	}
	l.ready()
	if last, debug := l.ends(l.run(request(alice, "one"))); last.Type != "done" || !debug.Warm {
		t.Errorf("%+v %+v", last, debug)
	}
	if h, err = l.parts.Volumes.Home(alice, project); err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Root().Stat(".bashrc"); err == nil {
		t.Error("it is there")
	}
}

func TestAnAgentThatWaitedForAnyoneIsNotUsed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(l *lateRig) error
		want   string
	}{
		"the project has a conversation": {func(l *lateRig) error {
			l.run(request(alice, "one")) // in a sandbox of its own
			return l.parts.Workspaces.Stop(t.Context(), workspace.Name(alice))
		}, "cold changed"},
		"another model": {func(l *lateRig) error {
			s := *l.service.settings.Load()
			s.Agent.Model = "other"
			l.service.Apply(s)
			return nil
		}, "changed"},
		"it cannot be claimed":       {func(l *lateRig) error { l.refuse = true; return nil }, "ended"},
		"its home cannot be mounted": {func(l *lateRig) error { l.fails = true; return nil }, "ended cold"}, // in another sandbox
	} {
		t.Run(name, func(t *testing.T) {
			l := newLateRig(t)
			early := strings.HasPrefix(c.want, "cold")
			if early {
				if err := c.change(l); err != nil {
					t.Fatal(err)
				}
			}
			l.ready()
			if !early {
				l.mu.Lock()
				err := c.change(l)
				l.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
			}
			last, debug := l.ends(l.run(request(alice, "two")))
			if last.Type != "done" || debug.Warm || debug.Reused || l.how() != c.want {
				t.Errorf("%+v %+v %q\n%s", last, debug, l.how(), l.log)
			}
			// What failed would fail again.
			if paused := l.parts.Workspaces.ParkingPaused(); paused != (l.refuse || l.fails) {
				t.Errorf("agents are started ahead as before\n%s", l.log)
			}
		})
	}
}
