package cells

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation/relocationtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const game = dreamcore.ProjectID("33333333-3333-4333-8333-333333333333")

// memory is a map in memory, written by compare-and-swap.
type memory struct {
	mu      sync.Mutex
	m       *slots.Map
	version int
	stored  func()       // called before each Store; may be nil
	lost    func() error // an error of Store after it has written; may be nil
}

func (s *memory) Load(context.Context) (*slots.Map, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m, fmt.Sprint(s.version), nil
}

func (s *memory) Store(_ context.Context, m *slots.Map, version string) error {
	if s.stored != nil {
		s.stored()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if version != fmt.Sprint(s.version) {
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "changed"}
	}
	s.m, s.version = m, s.version+1
	if s.lost != nil {
		return s.lost()
	}
	return nil
}

// cluster is cells with real stores and a map.
type cluster struct {
	t     *testing.T
	maps  *memory
	cells map[string]*relocationtest.Client
}

func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, cells: map[string]*relocationtest.Client{}}
	var names []string
	for i := range n {
		name := fmt.Sprintf("cell-%d", i)
		names = append(names, name)
		c.cells[name] = &relocationtest.Client{Cell: relocationtest.New(t)}
	}
	m, err := slots.Even(names)
	if err != nil {
		t.Fatal(err)
	}
	c.maps = &memory{m: m}
	return c
}

func (c *cluster) mover() *Mover {
	return &Mover{Maps: c.maps, Wait: time.Second, Cell: func(_ context.Context, name string) (Cell, error) {
		if cell, ok := c.cells[name]; ok {
			return cell, nil
		}
		return nil, &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "no cell " + name}
	}}
}

// user returns the n-th user of a cell.
func (c *cluster) user(cell string, n int) dreamcore.UserID {
	for i := 0; ; i++ {
		id := dreamcore.UserID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i))
		if c.maps.m.User(id).Cell == cell {
			if n--; n < 0 {
				return id
			}
		}
	}
}

// serves checks that exactly the cell that the map names lives with a user.
func (c *cluster) serves(user dreamcore.UserID, want string) {
	c.t.Helper()
	if at := c.maps.m.User(user); at.Cell != want || at.Moving {
		c.t.Errorf("the map says %+v, want %s", at, want)
	}
	for name, cell := range c.cells {
		if name != want && cell.Cell.Residence.Of(user).State == "" && len(cell.Cell.Snapshot(user, game).Files) == 0 {
			continue // it never had the user
		}
		if err := cell.CheckChange(user); (err == nil) != (name == want) {
			c.t.Errorf("%s: changes of %s: %v", name, user, err)
		}
		if err := cell.CheckRead(user); (err == nil) != (name == want) {
			c.t.Errorf("%s: reads of %s: %v", name, user, err)
		}
	}
}

// never checks what must hold at any moment: the cell that the map names answers reads,
// and no two cells change anything.
func (c *cluster) never(user dreamcore.UserID, when string) {
	c.t.Helper()
	at := c.maps.m.User(user)
	if err := c.cells[at.Cell].CheckRead(user); err != nil {
		c.t.Errorf("after %s, %s does not answer reads: %v", when, at.Cell, err)
	}
	live := 0
	for _, cell := range c.cells {
		if cell.CheckChange(user) == nil && (cell.Cell.Residence.Of(user).State != "" || len(cell.Cell.Snapshot(user, game).Files) > 0) {
			live++
		}
	}
	if live > 1 {
		c.t.Errorf("after %s, %d cells take changes", when, live)
	}
}

var allSteps = []string{"begin", "hold", "copy", "flip", "release", "accept", "end"}

// TestAKilledMoveIsFinished kills the driver after each step of a move, restarts the
// cells, and repeats the command.
func TestAKilledMoveIsFinished(t *testing.T) {
	for _, step := range allSteps {
		for _, slot := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, slot %v", step, slot), func(t *testing.T) {
				c := newCluster(t, 2)
				user := c.user("cell-0", 0)
				c.cells["cell-0"].Fill(user, game)
				before := c.cells["cell-0"].Snapshot(user, game)
				subject := residence.Subject{User: user}
				if slot {
					subject = residence.Subject{Slot: user.Slot()}
				}
				v := c.mover()
				v.reached = func(at string) error {
					c.never(user, at)
					if at == step {
						return errKilled
					}
					return nil
				}
				if _, err := v.Move(t.Context(), subject, "cell-1"); !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				for _, cell := range c.cells {
					cell.Close()
					cell.Open()
				}
				c.never(user, "the restart")
				v = c.mover()
				v.reached = func(at string) error { c.never(user, at); return nil }
				r, err := v.Move(t.Context(), subject, "cell-1")
				if err != nil {
					t.Fatal(err)
				}
				if step == "copy" && r.Users != 0 {
					t.Errorf("what was copied was copied again: %+v", r)
				}
				c.serves(user, "cell-1")
				got := c.cells["cell-1"].Snapshot(user, game)
				before.Jobs, before.States, got.Jobs, got.States = nil, nil, nil, nil // the job that was cut has gone on
				if diff := cmp.Diff(before, got); diff != "" {
					t.Error(diff)
				}
				// Once more, there is nothing to do.
				if r, err := c.mover().Move(t.Context(), subject, "cell-1"); err != nil || r.From != "" {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
	}
}

// TestAFailedMoveIsUndone makes each step before the flip fail.
func TestAFailedMoveIsUndone(t *testing.T) {
	for cell, steps := range map[string][]string{"cell-0": {"hold", "archive"}, "cell-1": {"status", "load"}} {
		for _, step := range steps {
			t.Run(step, func(t *testing.T) {
				c := newCluster(t, 2)
				user := c.user("cell-0", 0)
				c.cells["cell-0"].Fill(user, game)
				broken := true
				c.cells[cell].Fail = func(at string) error {
					if at == step && broken {
						broken = step == "load" // the undo asks for the status, too
						return &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "it does not answer"}
					}
					return nil
				}
				_, err := c.mover().Move(t.Context(), residence.Subject{User: user}, "cell-1")
				if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable {
					t.Fatal(err)
				}
				if at := c.maps.m.User(user); at != (slots.Place{Cell: "cell-0"}) {
					t.Errorf("%+v", at)
				}
				if err := c.cells["cell-0"].CheckChange(user); err != nil {
					t.Error(err)
				}
				if left := len(c.cells["cell-1"].Snapshot(user, game).Files); left != 0 {
					t.Errorf("%d files are left in the target", left)
				}
			})
		}
	}
}

// TestAMoveWhoseBeginWasLostIsUndone writes the map, and loses the answer; then the
// undo fails too.
func TestAMoveWhoseBeginWasLostIsUndone(t *testing.T) {
	for _, fails := range []int{1, 2} {
		c := newCluster(t, 2)
		user := c.user("cell-0", 0)
		c.cells["cell-0"].Fill(user, game)
		n := 0
		c.maps.lost = func() error {
			if n++; n <= fails {
				return &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "the connection was lost"}
			}
			return nil
		}
		_, err := c.mover().Move(t.Context(), residence.Subject{User: user}, "cell-1")
		if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable || strings.Contains(err.Error(), "dreamcore cells undo "+string(user)) != (fails == 2) {
			t.Errorf("%d: %v", fails, err)
		}
		if at := c.maps.m.User(user); at != (slots.Place{Cell: "cell-0"}) {
			t.Errorf("%d: %+v", fails, at)
		}
	}
}

// TestAMoveSaysWhatItLeavesOut: in its result, for people and for programs.
func TestAMoveSaysWhatItLeavesOut(t *testing.T) {
	c := newCluster(t, 2)
	user := c.user("cell-0", 0)
	c.cells["cell-0"].Fill(user, game)
	p, err := c.cells["cell-0"].Cell.Volumes.Find(user, game)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := syscall.Mkfifo(filepath.Join(p.Path(), "a\x1b[31mpipe\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := c.mover().Move(t.Context(), residence.Subject{User: user}, "cell-1")
	if err != nil || len(r.LeftOut) != 1 || r.LeftOut[0].User != user || !strings.Contains(r.LeftOut[0].Note, `"a\x1b[31mpipe\n" left out: it is neither a file`) {
		t.Fatalf("%+v, %v", r.LeftOut, err)
	}
	for _, asJSON := range []bool{false, true} {
		var out, errs bytes.Buffer
		if err := showResult(&term.IO{Out: &out, ErrOut: &errs, JSON: asJSON}, r); err != nil {
			t.Fatal(err)
		}
		told := errs.String()
		if asJSON {
			told = out.String()
		}
		if !strings.Contains(told, "left out: it is neither a file") || !strings.Contains(told, string(user)) {
			t.Errorf("out: %s\nerr: %s", &out, &errs)
		}
	}
	r.LeftOutMore = 100
	for i := range 2 * maxShown {
		r.LeftOut = append(r.LeftOut, LeftOut{user, fmt.Sprint(i)})
	}
	var errs bytes.Buffer
	showLeftOut(&term.IO{ErrOut: &errs}, r)
	if n := strings.Count(errs.String(), "\n"); n != maxShown+1 || !strings.Contains(errs.String(), "and 121 more") {
		t.Errorf("%d lines: %s", n, &errs)
	}
}

// TestJobsThatRunForLongAreNotCut gives up, and undoes the move.
func TestJobsThatRunForLongAreNotCut(t *testing.T) {
	c := newCluster(t, 2)
	user := c.user("cell-0", 0)
	v := c.mover()
	v.Wait = 50 * time.Millisecond
	inner := v.Cell
	v.Cell = func(ctx context.Context, name string) (Cell, error) {
		cell, err := inner(ctx, name)
		return busy{cell}, err
	}
	_, err := v.Move(t.Context(), residence.Subject{User: user}, "cell-1")
	if dreamcore.CodeOf(err) != dreamcore.CodeBusy || !strings.Contains(err.Error(), "2 jobs") {
		t.Error(err)
	}
	if err := c.cells["cell-0"].CheckChange(user); err != nil || c.maps.m.User(user).Moving {
		t.Error(err, c.maps.m.User(user))
	}
}

// busy is a cell whose jobs do not end.
type busy struct{ Cell }

func (b busy) HoldMove(ctx context.Context, s residence.Subject, o relocation.HoldOptions) (relocation.Status, error) {
	st, err := b.Cell.HoldMove(ctx, s, o)
	st.Running = 2
	return st, err
}

// TestTwoMovers lets two drivers move one user to different cells, and many drivers
// change the map at once.
func TestTwoMovers(t *testing.T) {
	c := newCluster(t, 3)
	user := c.user("cell-0", 0)
	subject := residence.Subject{User: user}
	v := c.mover()
	v.reached = func(step string) error {
		if step != "begin" {
			return nil
		}
		_, err := c.mover().Move(t.Context(), subject, "cell-2")
		if dreamcore.CodeOf(err) != dreamcore.CodeConflict || !strings.Contains(err.Error(), "from cell-0 to cell-1 already") {
			t.Errorf("the second mover: %v", err)
		}
		_, err = c.mover().Move(t.Context(), residence.Subject{Slot: user.Slot()}, "cell-2")
		if dreamcore.CodeOf(err) != dreamcore.CodeConflict {
			t.Errorf("the slot of the user: %v", err)
		}
		return nil
	}
	if _, err := v.Move(t.Context(), subject, "cell-1"); err != nil {
		t.Fatal(err)
	}
	c.serves(user, "cell-1")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if _, err := c.mover().Move(t.Context(), residence.Subject{Slot: i}, "cell-2"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := c.maps.m.Count()["cell-2"]; n != 1024/3+1+8 && n != 1024/3+8 {
		t.Errorf("%d slots", n)
	}
}

// TestAnOldDriverCannotGoOn hangs a driver before a step; meanwhile the move is undone and
// begun again, and that driver is killed. Then the first one goes on.
func TestAnOldDriverCannotGoOn(t *testing.T) {
	for _, hangs := range []string{"begin", "copy"} {
		for _, killed := range []string{"begin", "hold", "copy", "flip", ""} {
			for _, slot := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, slot %v", hangs, killed, slot), func(t *testing.T) {
					c := newCluster(t, 2)
					user := c.user("cell-0", 0)
					c.cells["cell-0"].Fill(user, game)
					before := c.cells["cell-0"].Snapshot(user, game)
					subject := residence.Subject{User: user}
					if slot {
						subject = residence.Subject{Slot: user.Slot()}
					}
					v := c.mover()
					v.reached = func(at string) error {
						c.never(user, at)
						if at != hangs {
							return nil
						}
						if err := c.mover().Undo(t.Context(), subject); err != nil {
							t.Error(err)
						}
						second := c.mover()
						second.reached = func(at string) error {
							c.never(user, at+" of the second")
							if at == killed {
								return errKilled
							}
							return nil
						}
						if _, err := second.Move(t.Context(), subject, "cell-1"); (err != nil) != (killed != "") {
							t.Error(err)
						}
						return nil
					}
					_, err := v.Move(t.Context(), subject, "cell-1")
					if (hangs != "begin" || killed != "begin") && err == nil {
						t.Error("the first driver has ended the move of the second")
					}
					c.never(user, "the first")
					if _, err := c.mover().Move(t.Context(), subject, "cell-1"); err != nil {
						t.Fatal(err)
					}
					c.serves(user, "cell-1")
					if diff := cmp.Diff(before.Files, c.cells["cell-1"].Snapshot(user, game).Files); diff != "" {
						t.Error(diff)
					}
				})
			}
		}
	}
}

// TestAUserWhoHasLeftAloneKeepsTheMarkWhenTheSlotComes moves a user to a third cell, and
// then the slot there and back.
func TestAUserWhoHasLeftAloneKeepsTheMarkWhenTheSlotComes(t *testing.T) {
	c := newCluster(t, 3)
	user := c.user("cell-0", 0)
	c.cells["cell-0"].Fill(user, game)
	for _, step := range []struct {
		subject  residence.Subject
		to, want string
	}{
		{residence.Subject{User: user}, "cell-2", "cell-2"},
		{residence.Subject{Slot: user.Slot()}, "cell-1", "cell-2"},
		{residence.Subject{Slot: user.Slot()}, "cell-0", "cell-2"},
		{residence.Subject{Slot: user.Slot()}, "cell-2", "cell-2"},
		{residence.Subject{Slot: user.Slot()}, "cell-0", "cell-0"},
	} {
		if _, err := c.mover().Move(t.Context(), step.subject, step.to); err != nil {
			t.Fatalf("%+v: %v", step, err)
		}
		c.serves(user, step.want)
	}
}

// TestDrainAndRebalance empties a cell with users, one of them an exception, and fills it
// again.
func TestDrainAndRebalance(t *testing.T) {
	c := newCluster(t, 2)
	a, b := c.user("cell-0", 0), c.user("cell-1", 0)
	c.cells["cell-0"].Fill(a, game)
	c.cells["cell-1"].Fill(b, game)
	if _, err := c.mover().Move(t.Context(), residence.Subject{User: a}, "cell-1"); err != nil {
		t.Fatal(err)
	}
	carry := func(plan []slots.Step, err error) {
		t.Helper()
		n := 0
		if err == nil {
			err = c.mover().Run(t.Context(), plan, func(Result) { n++ })
		}
		if err != nil || n != len(plan) {
			t.Fatalf("%d of %d moves: %v", n, len(plan), err)
		}
	}
	plan, err := c.mover().Drain(t.Context(), "cell-1")
	carry(plan, err)
	if len(plan) != 513 {
		t.Errorf("%d moves", len(plan))
	}
	for _, user := range []dreamcore.UserID{a, b} {
		c.serves(user, "cell-0")
	}
	if len(c.maps.m.Exceptions()) != 0 {
		t.Errorf("%v", c.maps.m.Exceptions())
	}
	if _, err := c.mover().Move(t.Context(), residence.Subject{User: a}, "cell-1"); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("to a draining cell: %v", err)
	}
	if _, err := c.mover().Drain(t.Context(), "cell-0"); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("the last cell: %v", err)
	}
	if err := c.mover().Undrain(t.Context(), "cell-1"); err != nil {
		t.Fatal(err)
	}
	carry(c.maps.m.Plan(), nil)
	if n := c.maps.m.Count(); n["cell-0"] != 512 || n["cell-1"] != 512 {
		t.Errorf("%v", n)
	}
	for _, user := range []dreamcore.UserID{a, b} {
		c.serves(user, c.maps.m.User(user).Cell)
	}
}

// TestOneUserDoesNotStopTheOthers: a project that stays in use fails the move of its user
// alone. When more fail, the reason is not a user, and the plan ends.
func TestOneUserDoesNotStopTheOthers(t *testing.T) {
	c := newCluster(t, 2)
	var users []dreamcore.UserID
	var plan []slots.Step
	for i := range 2 * atOnce {
		user := c.user("cell-0", i)
		users = append(users, user)
		c.cells["cell-0"].Fill(user, game)
		plan = append(plan, slots.Step{User: user, From: "cell-0", To: "cell-1"})
	}
	unlock, err := c.cells["cell-0"].Cell.Volumes.Lock(t.Context(), users[0], game)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = c.mover().Run(t.Context(), plan, func(Result) { n++ })
	unlock()
	if err == nil || !strings.Contains(err.Error(), "in use") || n != len(plan)-1 {
		t.Errorf("%d of %d moves: %v", n, len(plan), err)
	}
	c.serves(users[0], "cell-0")
	for _, user := range users[1:] {
		c.serves(user, "cell-1")
	}
	c.cells["cell-1"].Fail = func(step string) error {
		if step == "load" {
			return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "no space"}
		}
		return nil
	}
	plan = nil
	for i := range 10 * atOnce {
		user := c.user("cell-0", i)
		c.cells["cell-0"].Fill(user, game)
		plan = append(plan, slots.Step{User: user, From: "cell-0", To: "cell-1"})
	}
	loads := 0
	fail := c.cells["cell-1"].Fail
	var mu sync.Mutex
	c.cells["cell-1"].Fail = func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if step == "load" {
			loads++
		}
		return fail(step)
	}
	err = c.mover().Run(t.Context(), plan, func(Result) { t.Error("a move has ended") })
	if dreamcore.CodeOf(err) != dreamcore.CodeSetup || loads > mostFailed+atOnce {
		t.Errorf("%d users were sent: %v", loads, err)
	}
}

func TestScale(t *testing.T) {
	m, err := slots.Even([]string{"cell-0", "cell-1", "cell-10"})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{
		1: "[] [cell-10 cell-1]", 2: "[] [cell-10]", 3: "[cell-2] [cell-10]", 11: "[cell-2 cell-3 cell-4 cell-5 cell-6 cell-7 cell-8 cell-9] []",
	} {
		add, drop, err := scale(m, n)
		if got := fmt.Sprint(add, drop); err != nil || got != want {
			t.Errorf("%d: %s, %v", n, got, err)
		}
	}
	for _, n := range []int{0, -1, 1025} {
		if _, _, err := scale(m, n); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%d: %v", n, err)
		}
	}
	if m, err = slots.Even([]string{"a", "b-0"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := scale(m, 2); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Error(err)
	}
}
