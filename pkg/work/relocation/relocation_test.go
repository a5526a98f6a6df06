package relocation_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree/treetest"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation/relocationtest"
)

const (
	alice = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")
	bob   = dreamcore.UserID("b0b00000-0000-4000-8000-000000000002")
	game  = dreamcore.ProjectID("33333333-3333-4333-8333-333333333333")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ofAlice = residence.Subject{User: alice}

// hold holds alice in a cell.
func hold(t *testing.T, c *relocationtest.Cell, to string) relocation.Status {
	t.Helper()
	st, err := c.Hold(t.Context(), ofAlice, relocation.HoldOptions{To: to, Wait: time.Second})
	if err != nil || st.State != residence.Leaving || st.Running != 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	return st
}

// archive returns the archive of alice.
func archive(t *testing.T, c *relocationtest.Cell) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := c.Save(t.Context(), alice, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func load(t *testing.T, c *relocationtest.Cell, from, move string, raw []byte) {
	t.Helper()
	if st, err := c.Load(t.Context(), alice, from, move, bytes.NewReader(raw)); err != nil || st.State != residence.Arrived || st.Move != move {
		t.Fatalf("%+v, %v", st, err)
	}
}

func wantCode(t *testing.T, what string, err error, code dreamcore.Code) {
	t.Helper()
	if err == nil || dreamcore.CodeOf(err) != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// answers checks what a cell does with alice.
func answers(t *testing.T, c *relocationtest.Cell, what string, reads, changes, lists bool) {
	t.Helper()
	for name, f := range map[string]struct {
		err error
		ok  bool
	}{
		"read":   {c.CheckRead(alice), reads},
		"change": {c.CheckChange(alice), changes},
		"admit":  {c.Accounts.Admit(alice, game), changes},
	} {
		if (f.err == nil) != f.ok && dreamcore.CodeOf(f.err) != dreamcore.CodeBlocked {
			t.Errorf("%s: %s: %v", what, name, f.err)
		}
		if f.err != nil && !f.ok && dreamcore.CodeOf(f.err) != dreamcore.CodeMoving {
			t.Errorf("%s: %s: %v", what, name, f.err)
		}
	}
	p, err := c.Volumes.Project(alice, game)
	if err == nil {
		p.Close()
	}
	if (err == nil) != changes && c.Residence.Of(alice).State != residence.Arriving {
		t.Errorf("%s: the store: %v", what, err)
	}
	list, err := c.Accounts.Users(t.Context(), account.Page{})
	page, err2 := c.Jobs.List(dreamcore.JobFilter{User: alice})
	if err = errors.Join(err, err2); err != nil || (len(list.Users) > 0) != lists || (len(page.Jobs) > 0) != lists {
		t.Errorf("%s: it lists %d users and %d jobs, %v", what, len(list.Users), len(page.Jobs), err)
	}
}

func TestAUserMovesWhole(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	ended, cut := a.Fill(alice, game)
	st := hold(t, a, "b")
	if err := a.Jobs.Reconcile(t.Context()); err != nil { // it leaves the job that was cut
		t.Fatal(err)
	}
	if _, err := a.Blocks.Set(alice, "too loud", time.Now()); err != nil {
		t.Fatal(err)
	}
	before := a.Snapshot(alice, game)
	if len(before.Files) != 2 || len(before.Versions) != 2 || len(before.Homes) != 1 || len(before.Jobs) != 2 || !before.Shot || before.Spent == 0 || before.Session == "" {
		t.Fatalf("%+v", before)
	}
	answers(t, a, "held", true, false, true)
	raw := archive(t, a)
	load(t, b, "a", st.Move, raw)
	answers(t, b, "arrived", true, false, false)
	if diff := cmp.Diff(before, b.Snapshot(alice, game)); diff != "" {
		t.Errorf("what has arrived differs:\n%s", diff)
	}
	if _, err := a.Release(t.Context(), ofAlice, "b", st.Move); err != nil {
		t.Fatal(err)
	}
	answers(t, a, "left", false, false, false)
	if _, err := b.Accept(t.Context(), ofAlice, st.Move, nil); err != nil {
		t.Fatal(err)
	}
	answers(t, b, "accepted", true, true, true)
	// The job that was cut is taken up in the new cell alone: there it has used up its
	// attempts.
	b.Jobs.Close(context.Background())
	if j, err := b.Jobs.Get(cut); err != nil || !j.Final() {
		t.Errorf("%+v, %v", j, err)
	}
	if err := a.Jobs.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if j, err := a.Jobs.Get(cut); err != nil || j.Final() {
		t.Errorf("the old cell has taken the job up: %+v, %v", j, err)
	}
	// After a day the old copy is erased, and nothing can come back in its place.
	if n, err := a.EraseLeft(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := a.EraseLeft(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := a.EraseLeft(t.Context(), time.Now().Add(time.Hour)); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	answers(t, a, "erased", false, false, false)
	if _, err := a.Jobs.Get(ended); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Error(err)
	}
	leavesNothingBut(t, a.Dir, "moves/"+string(alice), "usage")
}

// leavesNothingBut checks that no file of alice is below dir, except for the names.
func leavesNothingBut(t *testing.T, dir string, kept ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		for _, k := range kept {
			if strings.HasPrefix(name, k) {
				return nil
			}
		}
		raw, _ := os.ReadFile(path)
		if strings.Contains(name, string(alice)) || bytes.Contains(raw, []byte(alice)) {
			t.Errorf("left: %s", name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestStepsSurviveRestarts closes both cells after every step, and repeats it.
func TestStepsSurviveRestarts(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	a.Fill(alice, game)
	var before relocationtest.Snapshot
	var move string
	var raw []byte
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"hold", func() error {
			st, err := a.Hold(t.Context(), ofAlice, relocation.HoldOptions{To: "b"})
			if move != "" && st.Move != move {
				t.Errorf("another move: %+v", st)
			}
			move, before = st.Move, a.Snapshot(alice, game)
			return err
		}},
		{"save", func() error { raw = archive(t, a); return nil }},
		{"load", func() error {
			_, err := b.Load(t.Context(), alice, "a", move, bytes.NewReader(raw))
			return err
		}},
		{"release", func() error { _, err := a.Release(t.Context(), ofAlice, "b", move); return err }},
		{"check", func() error {
			if diff := cmp.Diff(before, b.Snapshot(alice, game)); diff != "" {
				t.Errorf("what has arrived differs:\n%s", diff)
			}
			return nil
		}},
		{"accept", func() error { _, err := b.Accept(t.Context(), ofAlice, move, nil); return err }},
	} {
		for range 2 {
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			for _, c := range []*relocationtest.Cell{a, b} {
				c.Close()
				c.Open()
			}
		}
	}
	answers(t, a, "left", false, false, false)
	answers(t, b, "accepted", true, true, true)
}

func TestTwoCopiesNeverMeet(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	a.Fill(alice, game)
	st := hold(t, a, "b")
	raw := archive(t, a)
	// A live copy in the target is not replaced.
	b.Fill(alice, game)
	_, err := b.Load(t.Context(), alice, "a", st.Move, bytes.NewReader(raw))
	wantCode(t, "a live copy", err, dreamcore.CodeConflict)
	// A copy that has left is.
	of, err := b.Hold(t.Context(), ofAlice, relocation.HoldOptions{To: "a"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Load(t.Context(), alice, "a", st.Move, bytes.NewReader(raw))
	wantCode(t, "a held copy", err, dreamcore.CodeConflict)
	_, err = b.Accept(t.Context(), ofAlice, st.Move, nil)
	wantCode(t, "a held copy is accepted", err, dreamcore.CodeConflict)
	if _, err := b.Release(t.Context(), ofAlice, "a", of.Move); err != nil {
		t.Fatal(err)
	}
	_, err = b.Accept(t.Context(), ofAlice, st.Move, nil)
	wantCode(t, "a copy that has left is accepted", err, dreamcore.CodeConflict)
	load(t, b, "a", st.Move, raw)
	// The steps are only done in their order, and for one target.
	_, err = a.Hold(t.Context(), ofAlice, relocation.HoldOptions{To: "c"})
	wantCode(t, "two targets", err, dreamcore.CodeConflict)
	_, err = a.Release(t.Context(), ofAlice, "c", st.Move)
	wantCode(t, "another target", err, dreamcore.CodeConflict)
	_, err = b.Release(t.Context(), ofAlice, "a", of.Move)
	wantCode(t, "the target releases", err, dreamcore.CodeConflict)
	_, err = b.Hold(t.Context(), ofAlice, relocation.HoldOptions{To: "a"})
	wantCode(t, "the target is held", err, dreamcore.CodeConflict)
	wantCode(t, "another user is saved", a.Save(t.Context(), bob, &bytes.Buffer{}), dreamcore.CodeConflict)
	if _, err := a.Release(t.Context(), ofAlice, "b", st.Move); err != nil {
		t.Fatal(err)
	}
	_, err = a.Undo(t.Context(), ofAlice, st.Move)
	wantCode(t, "undo after the release", err, dreamcore.CodeConflict)
}

func TestUndo(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	a.Fill(alice, game)
	st := hold(t, a, "b")
	before := a.Snapshot(alice, game)
	load(t, b, "a", st.Move, archive(t, a))
	for range 2 {
		for _, c := range []*relocationtest.Cell{a, b} {
			if _, err := c.Undo(t.Context(), ofAlice, st.Move); err != nil {
				t.Fatal(err)
			}
		}
	}
	leavesNothingBut(t, b.Dir, "usage")
	if diff := cmp.Diff(before.Files, a.Snapshot(alice, game).Files); diff != "" {
		t.Error(diff)
	}
	answers(t, a, "undone", true, true, true)
	if len(b.List()) != 0 || len(a.List()) != 0 {
		t.Errorf("%v %v", a.List(), b.List())
	}
}

// TestStepsOfAnotherMoveAreRefused begins a second move where a first one was undone, and
// lets the first one go on.
func TestStepsOfAnotherMoveAreRefused(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	a.Fill(alice, game)
	for _, c := range []*relocationtest.Cell{a, b} { // nothing has arrived
		_, err := c.Accept(t.Context(), ofAlice, "first", nil)
		wantCode(t, "accept of nothing", err, dreamcore.CodeConflict)
	}
	for _, move := range []string{"first", "second"} {
		st, err := a.Hold(t.Context(), ofAlice, relocation.HoldOptions{To: "b", Move: move})
		if err != nil || st.Move != move {
			t.Fatalf("%+v, %v", st, err)
		}
		_, err = a.Hold(t.Context(), ofAlice, relocation.HoldOptions{To: "b", Move: "third"})
		wantCode(t, "hold", err, dreamcore.CodeConflict)
		if move == "first" {
			if _, err := a.Undo(t.Context(), ofAlice, move); err != nil {
				t.Fatal(err)
			}
		}
	}
	raw := archive(t, a)
	load(t, b, "a", "second", raw)
	_, err := b.Load(t.Context(), alice, "a", "first", bytes.NewReader(raw))
	wantCode(t, "load", err, dreamcore.CodeConflict)
	_, err = a.Release(t.Context(), ofAlice, "b", "first")
	wantCode(t, "release", err, dreamcore.CodeConflict)
	_, err = b.Accept(t.Context(), ofAlice, "first", nil)
	wantCode(t, "accept", err, dreamcore.CodeConflict)
	for _, c := range []*relocationtest.Cell{a, b} {
		_, err = c.Undo(t.Context(), ofAlice, "first")
		wantCode(t, "undo", err, dreamcore.CodeConflict)
	}
	slot := residence.Subject{Slot: alice.Slot()}
	_, err = b.Accept(t.Context(), slot, "first", nil)
	wantCode(t, "accept of the slot", err, dreamcore.CodeConflict)
	if st, err := b.Undo(t.Context(), slot, "first"); err != nil || st.Arriving != "second" {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := a.Release(t.Context(), ofAlice, "b", "second"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := b.Accept(t.Context(), ofAlice, "second", nil); err != nil {
			t.Fatal(err)
		}
	}
	_, err = b.Accept(t.Context(), ofAlice, "first", nil)
	wantCode(t, "accept of a user who lives here", err, dreamcore.CodeConflict)
	answers(t, b, "accepted", true, true, true)
	// A user who was accepted alone moves with the slot.
	if st, err := b.Hold(t.Context(), slot, relocation.HoldOptions{To: "a"}); err != nil || len(st.Users) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

// A user of the slot who takes part in a move alone would stay behind when it leaves.
func TestASlotWaitsForTheMovesOfItsUsers(t *testing.T) {
	a := relocationtest.New(t)
	a.Fill(alice, game)
	slot := residence.Subject{Slot: alice.Slot()}
	for state, ok := range map[residence.State]bool{
		residence.Leaving: false, residence.Arriving: false, residence.Arrived: false, residence.Damaged: false,
		residence.Here: true, residence.Left: true,
	} {
		if err := a.Residence.Set(ofAlice, residence.Mark{State: state, Cell: "b", Move: "m"}); err != nil {
			t.Fatal(err)
		}
		st, err := a.Hold(t.Context(), slot, relocation.HoldOptions{To: "b", Move: "slot"})
		if ok && err == nil {
			_, err = a.Undo(t.Context(), slot, st.Move)
		}
		if (err == nil) != ok {
			t.Errorf("%s: %v", state, err)
		}
		if !ok && (dreamcore.CodeOf(err) != dreamcore.CodeConflict || !strings.Contains(err.Error(), string(alice)) || a.Residence.Of(bob).State != "") {
			t.Errorf("%s: %v", state, err)
		}
	}
}

// TestUsersWhoHaveLeftComeBackWithTheirSlot accepts a slot in a cell that some of its
// users have left alone, one of them for a third cell.
func TestUsersWhoHaveLeftComeBackWithTheirSlot(t *testing.T) {
	b := relocationtest.New(t)
	slot := residence.Subject{Slot: alice.Slot()}
	erased, away := other(t, alice, 1), other(t, alice, 2)
	b.Fill(alice, game)
	for user, erased := range map[dreamcore.UserID]bool{alice: false, erased: true, away: true} {
		if err := b.Residence.Set(residence.Subject{User: user}, residence.Mark{State: residence.Left, Cell: "c", Move: "old", Erased: erased}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := b.Accept(t.Context(), slot, "slot", []dreamcore.UserID{away}); err != nil {
			t.Fatal(err)
		}
	}
	for user, ok := range map[dreamcore.UserID]bool{alice: true, erased: true, away: false} {
		if err := b.CheckChange(user); (err == nil) != ok {
			t.Errorf("%s: %v", user, err)
		}
	}
	if left := len(b.Snapshot(alice, game).Files); left != 0 {
		t.Errorf("%d files of the old copy are back", left)
	}
}

// TestADeletionThatWaitedIsChecked deletes a user who is held, with no check of the
// server before, as if the deletion had waited for its turn since.
func TestADeletionThatWaitedIsChecked(t *testing.T) {
	a := relocationtest.New(t)
	a.Fill(alice, game)
	before := a.Snapshot(alice, game)
	st := hold(t, a, "b")
	for _, left := range []bool{false, true} {
		if left {
			if _, err := a.Release(t.Context(), ofAlice, "b", st.Move); err != nil {
				t.Fatal(err)
			}
		}
		_, err := a.Accounts.DeleteUser(t.Context(), alice)
		wantCode(t, "delete the user", err, dreamcore.CodeMoving)
		_, err = a.Accounts.DeleteProject(t.Context(), alice, game)
		wantCode(t, "delete the project", err, dreamcore.CodeMoving)
	}
	if n, err := a.Jobs.IDs(t.Context(), alice); err != nil || len(n) != len(before.Jobs) {
		t.Errorf("%v, %v", n, err)
	}
}

// running is jobs that do not end.
type running struct{ relocation.Jobs }

func (running) Leave(context.Context, func(dreamcore.UserID) bool, time.Duration, bool) (int, error) {
	return 1, nil
}

func TestNothingIsReleasedWhileJobsRun(t *testing.T) {
	a := relocationtest.New(t)
	a.Fill(alice, game)
	st := hold(t, a, "b")
	s := relocation.New(relocation.Parts{Residence: a.Residence, Accounts: a.Accounts, Jobs: running{a.Jobs}})
	_, err := s.Release(t.Context(), ofAlice, "b", st.Move)
	wantCode(t, "release", err, dreamcore.CodeBusy)
	if err := a.CheckRead(alice); err != nil {
		t.Error(err)
	}
}

// TestASlotMoves moves the users of a slot, but not one who lives there as an exception.
func TestASlotMoves(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	slot := residence.Subject{Slot: alice.Slot()}
	stays := other(t, alice, 1)
	fresh := other(t, alice, 2)
	a.Fill(alice, game)
	a.Fill(stays, game)
	a.Fill(bob, game)
	st, err := a.Hold(t.Context(), slot, relocation.HoldOptions{To: "b", Stay: []dreamcore.UserID{stays}})
	if err != nil || len(st.Users) != 1 || st.Users[0] != alice {
		t.Fatalf("%+v, %v", st, err)
	}
	for user, ok := range map[dreamcore.UserID]bool{alice: false, fresh: false, stays: true, bob: true} {
		if err := a.CheckChange(user); (err == nil) != ok {
			t.Errorf("%s: %v", user, err)
		}
	}
	load(t, b, "a", st.Move, archive(t, a))
	for range 2 {
		if _, err := a.Release(t.Context(), slot, "b", st.Move); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Accept(t.Context(), slot, st.Move, nil); err != nil {
			t.Fatal(err)
		}
	}
	for user, ok := range map[dreamcore.UserID]bool{alice: false, fresh: false, stays: true, bob: true} {
		if err := a.CheckRead(user); (err == nil) != ok {
			t.Errorf("%s in the old cell: %v", user, err)
		}
	}
	answers(t, b, "accepted", true, true, true)
	if err := b.CheckChange(fresh); err != nil {
		t.Error(err)
	}
	if n, err := a.EraseLeft(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	// One user of the slot comes back alone, and then the slot.
	st = hold(t, b, "a")
	raw := archive(t, b)
	load(t, a, "b", st.Move, raw)
	if _, err := b.Release(t.Context(), ofAlice, "a", st.Move); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Accept(t.Context(), ofAlice, st.Move, nil); err != nil {
		t.Fatal(err)
	}
	if a.CheckChange(alice) != nil || a.CheckRead(fresh) == nil {
		t.Error("the user is not back alone")
	}
	if st, err = b.Hold(t.Context(), slot, relocation.HoldOptions{To: "a"}); err != nil || len(st.Users) != 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := b.Release(t.Context(), slot, "a", st.Move); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Accept(t.Context(), slot, st.Move, nil); err != nil {
		t.Fatal(err)
	}
	for _, user := range []dreamcore.UserID{alice, fresh, stays, bob} {
		if err := a.CheckChange(user); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	if left := a.List(); len(left) != 0 {
		t.Errorf("%+v", left)
	}
}

// other returns another user of the same slot.
func other(t *testing.T, user dreamcore.UserID, n int) dreamcore.UserID {
	t.Helper()
	for i := range 1 << 20 {
		id := dreamcore.UserID("c0c00000-0000-4000-8000-" + hex12(i))
		if id.Slot() == user.Slot() {
			if n--; n == 0 {
				return id
			}
		}
	}
	t.Fatal("no such user")
	return ""
}

func hex12(n int) string {
	const digits = "0123456789abcdef"
	b := []byte("000000000000")
	for i := len(b) - 1; n > 0; i-- {
		b[i] = digits[n&15]
		n >>= 4
	}
	return string(b)
}

// TestTheLedgerCountsOnce moves a user there and back, and imports twice.
func TestTheLedgerCountsOnce(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	a.Fill(alice, game)
	spent := a.Snapshot(alice, game).Spent
	cells := map[string]*relocationtest.Cell{"a": a, "b": b}
	for i, way := range []string{"ab", "ba", "ab"} {
		from, to := cells[way[:1]], cells[way[1:]]
		st := hold(t, from, way[1:])
		raw := archive(t, from)
		load(t, to, way[:1], st.Move, raw)
		load(t, to, way[:1], st.Move, raw)
		if _, err := from.Release(t.Context(), ofAlice, way[1:], st.Move); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Accept(t.Context(), ofAlice, st.Move, nil); err != nil {
			t.Fatal(err)
		}
		if got := to.Snapshot(alice, game).Spent; got != spent {
			t.Errorf("move %d: the user has spent %d, want %d", i, got, spent)
		}
	}
}

// TestSpendingMovesWithoutFiles: a user who has deleted everything has still spent what
// counts for the limits.
func TestSpendingMovesWithoutFiles(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	update, err := a.Ledger.Job(string(alice), string(game), dreamcore.NewJobID(alice)).Reserve("claude-opus-4-6", 1000, 1000)
	if err != nil {
		t.Fatal(err)
	}
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1000, Output: 500}}, true)
	spent := a.Snapshot(alice, game).Spent
	slot := residence.Subject{Slot: alice.Slot()}
	// Who is being deleted does not move, whatever was spent.
	if err := a.Volumes.BeginErase(t.Context(), volume.Erasure{User: alice}); err != nil {
		t.Fatal(err)
	}
	if st, err := a.Status(t.Context(), slot); err != nil || len(st.Users) > 0 {
		t.Errorf("in the middle of a deletion: %v, %v", st.Users, err)
	}
	if err := a.Volumes.EndErase(volume.Erasure{User: alice}); err != nil {
		t.Fatal(err)
	}
	st, err := a.Hold(t.Context(), slot, relocation.HoldOptions{To: "b"})
	if err != nil || !slices.Equal(st.Users, []dreamcore.UserID{alice}) {
		t.Fatalf("%+v, %v", st, err)
	}
	load(t, b, "a", st.Move, archive(t, a))
	if _, err := a.Release(t.Context(), slot, "b", st.Move); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Accept(t.Context(), slot, st.Move, nil); err != nil {
		t.Fatal(err)
	}
	if got := b.Snapshot(alice, game).Spent; got != spent || spent == 0 {
		t.Errorf("the user has spent %d, want %d", got, spent)
	}
}

// TestManyUsersArriveAtOnce lets a cell take in several users at the same time, as a plan
// of many slots does.
func TestManyUsersArriveAtOnce(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	var all sync.WaitGroup
	for i := range 6 {
		user := dreamcore.UserID("d0d00000-0000-4000-8000-" + hex12(i))
		a.Fill(user, game)
		st, err := a.Hold(t.Context(), residence.Subject{User: user}, relocation.HoldOptions{To: "b"})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			var raw bytes.Buffer
			err := a.Save(t.Context(), user, &raw)
			if err == nil {
				_, err = b.Load(t.Context(), user, "a", st.Move, &raw)
			}
			if err != nil {
				t.Errorf("%s: %v", user, err)
			}
		})
	}
	all.Wait()
}

// TestNoUserCanStay gives a user whatever the programs of a sandbox can make. It must
// not stop the move, and with it the drain of the cell: what exceeds the limits of a
// project is left out, as in a backup, and all the rest moves.
func TestNoUserCanStay(t *testing.T) {
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, mischief := range map[string]func(t *testing.T, project, home string){
		"odd files": func(t *testing.T, project, home string) {
			outside := treetest.Outside(t)
			treetest.Hostile(t, project, outside)
			treetest.Hostile(t, home, outside)
		},
		"more bytes than a project may have": func(t *testing.T, project, home string) {
			for _, dir := range []string{project, home} {
				write(t, filepath.Join(dir, "huge"))
				if err := os.Truncate(filepath.Join(dir, "huge"), 5<<30); err != nil {
					t.Fatal(err)
				}
			}
		},
		"more files than a project may have": func(t *testing.T, project, home string) {
			for _, dir := range []string{project, home} {
				for i := range tree.MaxEntries + 1 {
					write(t, filepath.Join(dir, "z", strconv.Itoa(i)))
				}
			}
		},
		"holes that are larger than the disk": func(t *testing.T, project, home string) {
			for _, dir := range []string{project, home} {
				write(t, filepath.Join(dir, "holes"))
				if err := os.Truncate(filepath.Join(dir, "holes"), 200<<20); err != nil {
					t.Fatal(err)
				}
			}
		},
		"many names of a file": func(t *testing.T, project, home string) {
			for i, dir := range []string{project, home} {
				first := filepath.Join(dir, "0")
				if err := os.WriteFile(first, bytes.Repeat([]byte{byte(i + 1)}, 20<<20), 0o644); err != nil {
					t.Fatal(err)
				}
				for n := range 10 {
					if err := os.Link(first, filepath.Join(dir, strconv.Itoa(n+1))); err != nil {
						t.Fatal(err)
					}
				}
			}
		},
		"nobody may read it": func(t *testing.T, project, home string) {
			for _, dir := range []string{project, home} {
				write(t, filepath.Join(dir, "closed/file"))
				if err := errors.Join(os.Chmod(filepath.Join(dir, "closed/file"), 0), os.Chmod(filepath.Join(dir, "closed"), 0)); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o700) })
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := int64(96 << 20)
			if name == "more files than a project may have" || os.Geteuid() != 0 {
				disk = 0 // it would not take them; only root has such disks
			}
			a, b := relocationtest.NewWithDisks(t, disk), relocationtest.NewWithDisks(t, disk)
			a.Fill(alice, game)
			before := a.Snapshot(alice, game)
			p, err := a.Volumes.Find(alice, game)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			h, err := a.Volumes.FindHome(t.Context(), alice, game)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			mischief(t, p.Path(), h.Path())
			st := hold(t, a, "b")
			var raw []byte
			asOwner(t, func() { raw = archive(t, a) })
			loaded, err := b.Load(t.Context(), alice, "a", st.Move, bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			// Each begins with the project or the home; names are quoted.
			notes := strings.Join(loaded.LeftOut, "\n")
			if n := len(loaded.LeftOut); (n == 0) != (name == "holes that are larger than the disk") || n > 101 || strings.ContainsFunc(notes, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }) {
				t.Errorf("%d notes: %.2000s", n, notes)
			}
			after := b.Snapshot(alice, game)
			if _, closed := after.Files["closed/file"]; closed {
				t.Error("what may not be read has moved")
			}
			if !strings.Contains(after.Files["assets/run.sh"], "#!") || after.Session != before.Session || after.Spent != before.Spent || !after.Shot {
				t.Errorf("%+v", after)
			}
			if diff := cmp.Diff(before.Jobs, after.Jobs); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before.Versions, after.Versions[len(after.Versions)-len(before.Versions):]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestACopyThatFillsTheDisk: further names of a file let a copy take more than the disk
// has, to the last block. What does not fit is left out, also whole projects, and the rest
// moves. A smaller disk than before is no reason to leave anything out.
func TestACopyThatFillsTheDisk(t *testing.T) {
	const disk, second = 96 << 20, dreamcore.ProjectID("44444444-4444-4444-8444-444444444444")
	a := relocationtest.NewWithDisks(t, disk)
	a.Fill(alice, game)
	p, err := a.Volumes.Find(alice, game)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	big := make([]byte, 60<<20)
	for i := range big {
		big[i] = byte(i%251 + 1)
	}
	dir := filepath.Join(p.Path(), "n")
	err = errors.Join(os.WriteFile(filepath.Join(p.Path(), "big"), big, 0o644), os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "0"), []byte("x"), 0o644))
	for i := range 8000 {
		err = errors.Join(err, os.Link(filepath.Join(dir, "0"), filepath.Join(dir, strconv.Itoa(i+1))))
	}
	err = errors.Join(err, os.MkdirAll(filepath.Join(p.Path(), "z", "z"), 0o755), os.WriteFile(filepath.Join(p.Path(), "z", "z", "z"), []byte("z"), 0o644))
	q, err2 := a.Volumes.Project(alice, second)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Root().WriteFile("index.html", []byte("second"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := a.Snapshot(alice, game)
	st := hold(t, a, "b")
	raw := archive(t, a)
	b := relocationtest.NewWithDisks(t, disk)
	load(t, b, "a", st.Move, raw)
	after := b.Snapshot(alice, game)
	if len(after.Files["big"]) < len(big) || len(after.Files) >= len(before.Files) || len(after.Files) < 100 {
		t.Errorf("%d of %d files", len(after.Files), len(before.Files))
	}
	if diff := cmp.Diff(before.Jobs, after.Jobs); diff != "" {
		t.Error(diff)
	}
	smaller := relocationtest.NewWithDisks(t, disk/2)
	if _, err := smaller.Load(t.Context(), alice, "a", st.Move, bytes.NewReader(raw)); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("onto a smaller disk: %v", err)
	}
}

// TestWithoutRoot runs the tests of moves as a user without rights, as the cells of the
// level with the fewest rights do.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it is one of them")
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "moves-") // the parents of t.TempDir are closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const nobody = 65534
	file := filepath.Join(dir, "test")
	if err := errors.Join(os.WriteFile(file, program, 0o755), os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "tmp"), 0o755), os.Chown(filepath.Join(dir, "tmp"), nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), file, "-test.run=^(TestAUserMovesWhole|TestASlotMoves|TestStepsSurviveRestarts|TestNoUserCanStay)$/^(nobody_may_read_it|odd_files)$", "-test.v")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS: ")) != 6 {
		t.Errorf("%v\n%s", err, out[max(0, len(out)-4000):])
	}
}

// asOwner calls f with the rights of a service that owns the files of users, and may do
// nothing beyond that: root without the rights that make it root.
func asOwner(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		t.Fatal(err)
	}
	less := have
	less[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
	if err := unix.Capset(&header, &less[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&header, &have[0]); err != nil {
			panic(err) // the thread must not be used again
		}
	}()
	f()
}

// TestHostileArchives sends what is no archive of this user. Nothing of it may stay.
func TestHostileArchives(t *testing.T) {
	a, b := relocationtest.New(t), relocationtest.New(t)
	a.Fill(alice, game)
	hold(t, a, "b")
	raw := archive(t, a)
	try := func(name string, archive []byte, user dreamcore.UserID) {
		t.Run(name, func(t *testing.T) {
			if _, err := b.Load(t.Context(), user, "a", "m", bytes.NewReader(archive)); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
				t.Error(err)
			}
			if len(b.List()) != 0 {
				t.Errorf("%+v", b.List())
			}
			leavesNothingBut(t, b.Dir)
		})
	}
	try("nothing", nil, alice)
	try("no archive", []byte("hello"), alice)
	try("of another user", raw, bob)
	for _, n := range []int{1, 100, len(raw) / 2, len(raw) - 1} {
		try("cut", raw[:n], alice)
	}
	for i := 50; i < len(raw); i += len(raw) / 20 {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x40
		try("changed", bad, alice)
	}
	load(t, b, "a", "m", raw)
}

// FuzzLoad feeds a cell with archives. It takes an archive over only as a whole.
func FuzzLoad(f *testing.F) {
	a, b := relocationtest.New(f), relocationtest.New(f)
	a.Fill(alice, game)
	if _, err := a.Hold(f.Context(), ofAlice, relocation.HoldOptions{To: "b"}); err != nil {
		f.Fatal(err)
	}
	var raw bytes.Buffer
	if err := a.Save(f.Context(), alice, &raw); err != nil {
		f.Fatal(err)
	}
	f.Add(raw.Bytes())
	f.Add(raw.Bytes()[:raw.Len()/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, archive []byte) {
		st, err := b.Load(context.Background(), alice, "a", "m", bytes.NewReader(archive))
		if err == nil {
			p, missing := b.Volumes.Find(alice, game)
			if missing != nil || st.State != residence.Arrived {
				t.Fatalf("%+v, %v", st, missing)
			}
			p.Close()
		}
		if _, err := b.Undo(context.Background(), ofAlice, "m"); err != nil {
			t.Fatal(err)
		}
	})
}
