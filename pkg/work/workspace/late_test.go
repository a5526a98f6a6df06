package workspace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// lateBox is a sandbox that gets its directories later.
type lateBox struct {
	*sandboxtest.Fake
	id   string
	spec sandbox.Spec

	rig     *lateRig
	bound   []sandbox.Mount // guarded by rig.mu
	special []string        // of the last cleaning; guarded by rig.mu
}

func (b *lateBox) Clean(ctx context.Context, r sandbox.Residue) error {
	b.rig.mu.Lock()
	b.special = r.Special
	b.rig.mu.Unlock()
	return b.Fake.Clean(ctx, r)
}

func (b *lateBox) ID() string { return b.id }

func (b *lateBox) Bind(_ context.Context, mounts []sandbox.Mount) error {
	b.rig.mu.Lock()
	defer b.rig.mu.Unlock()
	for _, m := range mounts {
		if slices.ContainsFunc(b.bound, func(o sandbox.Mount) bool { return o.Target == m.Target }) {
			b.rig.t.Errorf("%s gets %s twice", b.id, m.Target)
		}
	}
	b.bound = append(b.bound, mounts...)
	return b.rig.bindErr
}

// Close fails as often as the rig says once the sandbox has directories of a user.
func (b *lateBox) Close(ctx context.Context) error {
	b.rig.mu.Lock()
	fails := len(b.bound) > 0 && b.rig.closeFails > 0
	if fails {
		b.rig.closeFails--
	}
	b.rig.mu.Unlock()
	if fails {
		return errors.New("it does not close")
	}
	return b.Fake.Close(ctx)
}

// lateRig is a pool with real volumes and fake sandboxes.
type lateRig struct {
	t    *testing.T
	pool *Pool

	mu         sync.Mutex
	boxes      []*lateBox
	bindErr    error
	closeFails int
	primeErr   error
	primed     int
}

func (r *lateRig) Create(_ context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	b := &lateBox{Fake: &sandboxtest.Fake{}, id: "s-" + string(rune('a'+len(r.boxes))), spec: spec, rig: r}
	r.boxes = append(r.boxes, b)
	return b, nil
}

func newLateRig(t *testing.T, standby int) *lateRig {
	t.Helper()
	r := &lateRig{t: t}
	dir := t.TempDir()
	volumes, err := volume.Open(filepath.Join(dir, "volumes"), volume.Options{UID: os.Getuid(), GID: os.Getgid()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := volumes.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	gate := gateway.New(gateway.Config{})
	r.pool, err = New(Parts{
		Sandboxes: r, Volumes: volumes, Gateway: gate, SocketDir: dir, Late: true,
		Prime: func(context.Context, sandbox.Sandbox) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.primed++
			return r.primeErr
		},
	}, Settings{
		Limits:   Limits{Max: 4, Idle: time.Hour, MaxAge: time.Hour, Standby: standby},
		Template: Template{Root: sandbox.Root{Path: dir}, AgentFile: "/bin/agent", AgentPath: "/opt/agent", Home: "/home/agent", Socket: "/run/gw/api.sock"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.pool.Close(t.Context()), gate.Close(context.Background()), volumes.Close()); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		for _, b := range r.boxes {
			if b.Closes() == 0 {
				t.Errorf("%s is not closed", b.id)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*-*-*-*")); len(left) > 0 {
			t.Errorf("remaining directories of sockets: %q", left)
		}
	})
	return r
}

// ready waits for a standby sandbox with another id.
func (r *lateRig) ready(not string) string {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if list := r.pool.Standby(); len(list) > 0 && list[0].Sandbox != not {
			return list[0].Sandbox
		}
	}
	r.t.Fatal("no standby sandbox comes")
	return ""
}

func (r *lateRig) lease(u dreamcore.UserID) *lateBox {
	r.t.Helper()
	lease, err := r.pool.Lease(r.t.Context(), u)
	if err != nil {
		r.t.Fatal(err)
	}
	defer lease.Release(r.t.Context())
	if lease.Workspace().owner != u {
		r.t.Errorf("the workspace of %s belongs to %q", u, lease.Workspace().owner)
	}
	return lease.Workspace().Sandbox.(*lateBox)
}

// shows reports which user's directories a sandbox has.
func (b *lateBox) shows(u dreamcore.UserID) bool {
	return slices.ContainsFunc(slices.Concat(b.spec.Mounts, b.bound), func(m sandbox.Mount) bool {
		return strings.Contains(m.Source+m.Target, string(u))
	})
}

func TestAStandbySandboxBecomesThatOfOneUser(t *testing.T) {
	r := newLateRig(t, 1)
	ready := r.ready("")
	if list := r.pool.Standby(); list[0].Name != UnownedName || list[0].State != StateUnowned || list[0].User != "" || r.primed != 1 {
		t.Errorf("standby: %+v, primed %d times", list, r.primed)
	}
	if len(r.pool.List()) != 0 {
		t.Error("it is a user's before one comes")
	}
	box := r.lease(user(1))
	if box.id != ready || !box.shows(user(1)) || len(box.bound) != 2 || !slices.Equal(box.spec.Late, []string{"/data/users", "/home"}) {
		t.Errorf("the user gets %s, not %s, with %+v", box.id, ready, box.bound)
	}
	// An engine may keep FIFOs by their paths, and the home of the agent that waited has two.
	if !slices.Contains(box.special, "/home/agent") || !slices.Contains(box.special, "/home/project") {
		t.Errorf("special files are removed below %q", box.special)
	}
	if w := r.pool.entries[user(1)].workspace; !w.Ahead() {
		t.Error("the sandbox was not there before its user")
	}
	other := r.lease(user(2)) // before the next one is ready
	if w := r.pool.entries[user(2)].workspace; w.Ahead() {
		t.Error("the sandbox was there before its user")
	}
	if other.id == box.id || len(other.spec.Late) != 0 || !other.shows(user(2)) || other.shows(user(1)) || box.shows(user(2)) {
		t.Errorf("the second user gets %s with %+v", other.id, other.spec.Mounts)
	}
	if again := r.lease(user(1)); again != box {
		t.Errorf("the user gets %s after %s", again.id, box.id)
	}
}

func TestAStandbySandboxThatCannotBeUsedIsClosed(t *testing.T) {
	for what, spoil := range map[string]func(*lateRig){
		"no mount":     func(r *lateRig) { r.bindErr = errors.New("no mount") },
		"new settings": func(r *lateRig) { s := *r.pool.template.Load(); s.UID = 7; r.pool.template.Store(&s) },
	} {
		t.Run(what, func(t *testing.T) {
			r := newLateRig(t, 1)
			ready := r.ready("")
			r.mu.Lock()
			spoil(r)
			r.mu.Unlock()
			box := r.lease(user(1))
			if box.id == ready || len(box.spec.Late) != 0 || !box.shows(user(1)) {
				t.Errorf("the user gets %s with %+v", box.id, box.spec)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.boxes[0].id != ready || r.boxes[0].Closes() == 0 {
				t.Error("the standby sandbox lives on")
			}
		})
	}
}

// One that cannot get its user's directories is followed by no other: each would cost
// a user time.
func TestNoMoreStandbySandboxesAfterOneThatCannotMount(t *testing.T) {
	r := newLateRig(t, 1)
	r.ready("")
	r.mu.Lock()
	r.bindErr = errors.New("no mount")
	r.mu.Unlock()
	r.lease(user(1))
	if missing, _ := r.pool.standby.missing(); missing || len(r.pool.Standby()) != 0 {
		t.Error("another one is started")
	}
}

// A sandbox that has directories of a user and cannot be closed is still the user's: no
// other one is started before it is closed.
func TestAStandbySandboxThatCannotBeClosedIsStillTheUsers(t *testing.T) {
	r := newLateRig(t, 1)
	ready := r.ready("")
	r.mu.Lock()
	r.bindErr, r.closeFails = errors.New("no mount"), 2
	r.mu.Unlock()
	if _, err := r.pool.Lease(t.Context(), user(1)); err == nil || !strings.Contains(err.Error(), "does not close") {
		t.Fatalf("the lease: %v", err)
	}
	if list := r.pool.List(); len(list) != 1 || list[0].Sandbox != ready || list[0].State != StateClosing {
		t.Errorf("listed: %+v", list)
	}
	box := r.lease(user(1))
	if box.id == ready || !box.shows(user(1)) || r.boxes[0].Closes() == 0 {
		t.Errorf("the user gets %s, and the first was closed %d times", box.id, r.boxes[0].Closes())
	}
}

func TestStandbySandboxesOfOldSettingsAreReplaced(t *testing.T) {
	r := newLateRig(t, 1)
	ready := r.ready("")
	next := *r.pool.template.Load()
	next.UID = 7
	r.pool.Apply(Settings{Limits: Limits{Max: 4, Idle: time.Hour, MaxAge: time.Hour, Standby: 1}, Template: next})
	r.ready(ready)
}

// When memory is short, no user's sandbox ends while there is one that has no user.
func TestStandbySandboxesEndBeforeThoseOfUsers(t *testing.T) {
	r := newLateRig(t, 1)
	used := r.ready("")
	r.lease(user(1))
	r.ready(used)
	r.pool.free = func() (int64, error) { return 0, nil }
	r.pool.mu.Lock()
	r.pool.limits.MinFree = 1
	r.pool.mu.Unlock()
	state := func() State { return r.pool.List()[0].State }
	r.pool.relieve(false)
	if state() != StateIdle {
		t.Errorf("the user's sandbox is %s", state())
	}
	r.pool.standby.Disable()
	for end := time.Now().Add(30 * time.Second); len(r.pool.Standby()) > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	r.pool.relieve(false)
	if list := r.pool.List(); len(list) > 0 && list[0].State == StateIdle {
		t.Error("the user's sandbox stays although there is no other one")
	}
}

func TestStandbySandboxesWaitWhileUsersNeedTheProcessors(t *testing.T) {
	r := newLateRig(t, 0)
	var leases []*Lease
	for n := range max(runtime.NumCPU(), 1) {
		lease, err := r.pool.Lease(t.Context(), user(n%r.pool.limits.Max))
		if err != nil {
			t.Fatal(err)
		}
		if leases = append(leases, lease); len(leases) == r.pool.limits.Max {
			break
		}
	}
	if want := 2*len(leases) >= runtime.NumCPU(); r.pool.busy() != want {
		t.Errorf("busy with %d leases and %d processors: %v", len(leases), runtime.NumCPU(), !want)
	}
	r.pool.Apply(Settings{Limits: Limits{Max: 4, Idle: time.Hour, MaxAge: time.Hour, Standby: 1}, Template: *r.pool.template.Load()})
	for _, l := range leases {
		l.Release(t.Context())
	}
	if r.pool.busy() {
		t.Error("busy without leases")
	}
	r.ready("")
}

func TestAnAgentThatFailsAheadDoesNotPreventStandbySandboxes(t *testing.T) {
	r := newLateRig(t, 0)
	if len(r.pool.Standby()) != 0 {
		t.Error("there is one although none may be")
	}
	r.primeErr = errors.New("it does not start")
	r.pool.Apply(Settings{Limits: Limits{Max: 4, Idle: time.Hour, MaxAge: time.Hour, Standby: 1}, Template: *r.pool.template.Load()})
	if ready, box := r.ready(""), r.lease(user(1)); box.id != ready {
		t.Errorf("the user gets %s, not %s", box.id, ready)
	}
}

// lateAgent is an agent that waits until it is ended.
type lateAgent struct {
	done  chan struct{}
	ended atomic.Int32
}

func (a *lateAgent) Alive(context.Context) bool { return !isClosed(a.done) }
func (a *lateAgent) Done() <-chan struct{}      { return a.done }
func (a *lateAgent) End(context.Context) error {
	if a.ended.Add(1) == 1 {
		close(a.done)
	}
	return nil
}

// lateParking starts such agents.
type lateParking struct {
	agents      chan *lateAgent
	fail, other atomic.Bool
}

func (l *lateParking) Park(context.Context, *Workspace) (Agent, error) {
	if l.fail.Load() {
		return nil, errors.New("it does not start")
	}
	l.other.Store(false)
	a := &lateAgent{done: make(chan struct{})}
	l.agents <- a
	return a, nil
}

func (l *lateParking) Fits(*Workspace, Agent) bool { return !l.other.Load() }

// newParkingRig returns a rig in whose standby sandboxes agents may wait.
func newParkingRig(t *testing.T) (*lateRig, *lateParking) {
	t.Helper()
	r := newLateRig(t, 0)
	r.pool.standby.mu.Lock()
	r.pool.standby.cfg.Delay = time.Millisecond
	r.pool.standby.mu.Unlock()
	lot := &lateParking{agents: make(chan *lateAgent, 10)}
	r.pool.Parks(lot)
	return r, lot
}

// TestAgentsOfStandbySandboxesCount against WarmAgents once they have a user; the one who
// came last keeps the agent.
func TestAgentsOfStandbySandboxesCount(t *testing.T) {
	r, _ := newParkingRig(t)
	r.pool.Apply(Settings{Limits: Limits{Max: 4, Idle: time.Hour, MaxAge: time.Hour, Standby: 1, WarmAgents: 1}, Template: *r.pool.template.Load()})
	before := ""
	for n := range 3 {
		before = r.ready(before)
		if _, err := r.pool.Prewarm(t.Context(), user(n)); err != nil {
			t.Fatal(err)
		}
		if n := r.pool.Agents(); n != 1 {
			t.Errorf("%d agents", n)
		}
		if !r.pool.WantsAgent(user(n)) {
			t.Errorf("user %d may not have another agent in place of its own", n)
		}
		r.pool.mu.Lock()
		if r.pool.entries[user(n)].waiting() == nil {
			t.Errorf("user %d has lost the agent", n)
		}
		r.pool.mu.Unlock()
	}
}

// TestAnAgentWaitsInAStandbySandbox: the user of the sandbox gets it, and one who only
// looks at a project may have another one.
func TestAnAgentWaitsInAStandbySandbox(t *testing.T) {
	r, lot := newParkingRig(t)
	apply := func(agents int) {
		r.pool.Apply(Settings{Limits: Limits{Max: 4, Idle: time.Hour, MaxAge: time.Hour, Standby: 1, WarmAgents: agents}, Template: *r.pool.template.Load()})
	}
	apply(2)
	ready := r.ready("")
	if r.primed != 0 || r.pool.Agents() != 0 || !r.pool.Standby()[0].AgentWarm {
		t.Errorf("primed %d times, %d agents of users", r.primed, r.pool.Agents())
	}
	if _, err := r.pool.Prewarm(t.Context(), user(1)); err != nil {
		t.Fatal(err)
	}
	if a := <-lot.agents; r.pool.Agents() != 1 || a.ended.Load() != 0 || !r.pool.WantsAgent(user(1)) {
		t.Errorf("%d agents, ended %d times", r.pool.Agents(), a.ended.Load())
	}
	lease, err := r.pool.Lease(t.Context(), user(1))
	if err != nil {
		t.Fatal(err)
	}
	w := lease.Workspace()
	if w.ID() != ready || w.Agent() == nil {
		t.Errorf("the user gets %s without an agent", w.ID())
	}
	if err := errors.Join(w.MountHome(t.Context(), "p"), w.EndAgent(t.Context())); err != nil {
		t.Error(err)
	}
	box := w.Sandbox.(*lateBox)
	if m := box.bound[len(box.bound)-1]; m.Target != "/home/project" || filepath.Base(m.Source) != "p" || !box.shows(user(1)) {
		t.Errorf("mounted: %+v", m)
	}
	lease.Release(t.Context())
	if other := r.ready(ready); other == "" || r.pool.Agents() != 0 {
		t.Error("the agent waits on")
	}

	// One that no job would take is replaced, with its sandbox, also while none may wait.
	// Then, and if agents do not start, the sandboxes are there all the same.
	for _, c := range []struct {
		name   string
		change func()
		agent  bool
	}{
		{"other settings", func() { lot.other.Store(true) }, true},
		{"off", func() { apply(0) }, false},
		{"on", func() { apply(2) }, true},
		{"failing", func() { lot.fail.Store(true); lot.other.Store(true) }, false},
	} {
		before := r.ready("")
		c.change()
		r.pool.standby.wake() // it looks again every few seconds
		now := r.ready(before)
		if got := r.pool.Standby()[0].AgentWarm; got != c.agent {
			t.Errorf("%s: %s has an agent: %v", c.name, now, got)
		}
	}
	if r.primed == 0 {
		t.Error("without agents that wait, none has run ahead")
	}
	w = &Workspace{Sandbox: &sandboxtest.Fake{}}
	if err := w.MountHome(t.Context(), "p"); err == nil {
		t.Error("a home is mounted in a sandbox that had its user from the start")
	}
}

func TestTheKeeperAsksAgainWhileTheProcessorsAreBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Bool
		busy.Store(true)
		starts := 0
		s := NewStandby(StandbyConfig{
			StandbyLimits: StandbyLimits{Count: 1, MaxAge: time.Hour}, Busy: busy.Load,
			Create: func(context.Context, sandbox.Spec) (sandbox.Sandbox, error) {
				starts++
				return &sandboxtest.Fake{}, nil
			},
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if starts != 0 {
			t.Errorf("%d starts while the processors are busy", starts)
		}
		busy.Store(false)
		time.Sleep(2 * busyPause)
		synctest.Wait()
		if starts != 1 {
			t.Errorf("%d starts after that", starts)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
