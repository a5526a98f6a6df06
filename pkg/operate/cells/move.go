package cells

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// Mover moves users and slots. A move passes these steps:
//
//	begin    the map says that the subject moves: routers hold its changes
//	hold     the source refuses changes, and its jobs end
//	copy     each user from the source to the target
//	flip     the map names the target: from now on the move only goes forward
//	release  the source answers nothing any more
//	accept   the target takes changes, and jobs that were cut go on
//	end      the map no longer says that the subject moves
//
// Each step looks at the map and the cells, not at what an earlier process has done. So
// a move that was killed is finished by repeating it.
type Mover struct {
	Maps Maps
	Cell func(ctx context.Context, name string) (Cell, error)
	Wait time.Duration // for jobs that run; then the move is undone
	Cut  bool          // jobs that run are cut at once, and go on in the target
	// Settle is how long routers may take to see the map.
	Settle time.Duration
	// Progress is called with each step; may be nil.
	Progress func(Progress)

	reached func(step string) error // called after each step; for tests
}

// Progress is where a move is.
type Progress struct {
	Subject residence.Subject
	Step    string // as above
	Running int    // jobs that hold waits for
	Copied  int    // users
	Users   int
	Bytes   int64 // of the archive that is being copied
}

// Result is a move that has ended.
type Result struct {
	Subject string        `json:"subject"`
	From    string        `json:"from,omitempty"` // "" if it was there already
	To      string        `json:"to"`
	Users   int           `json:"users"` // that were copied
	Bytes   int64         `json:"bytes"` // of their archives
	Took    time.Duration `json:"-"`
	Seconds float64       `json:"seconds"`
}

const (
	// DefaultWait is longer than a job takes.
	DefaultWait = 10 * time.Minute
	// DefaultSettle is longer than routers take to see a change of the map.
	DefaultSettle = 200 * time.Millisecond

	swapPause = 50 * time.Millisecond
	holdSlice = 5 * time.Second // of one request
	undoLimit = 5 * time.Minute
	maxTries  = 50 // of a compare-and-swap
)

// move is one move.
type move struct {
	*Mover
	subject  residence.Subject
	from, to string
	began    bool   // by this process
	id       string // of the move, in both cells; "" until the source has told it
	progress Progress
	result   Result
	status   relocation.Status // of the source
}

// Move moves a user or a slot to a cell. Before the map names the target, an error undoes
// a move that this call has begun; a move that another process has begun goes on at its
// next step. CodeConflict: the subject is being moved elsewhere, or an error of a cell.
func (v *Mover) Move(ctx context.Context, subject residence.Subject, to string) (Result, error) {
	began := time.Now()
	m := &move{Mover: v, subject: subject, to: to, progress: Progress{Subject: subject}, result: Result{Subject: subject.String(), To: to}}
	err := m.run(ctx)
	m.result.From, m.result.Took = m.from, time.Since(began)
	m.result.Seconds = m.result.Took.Seconds()
	return m.result, err
}

func (m *move) run(ctx context.Context) error {
	flipped, err := m.begin(ctx)
	if err != nil { // the map may say that the subject moves all the same
		return m.failed(ctx, err)
	}
	if m.from == "" {
		return nil
	}
	if !flipped {
		err = m.leadToFlip(ctx)
	}
	if err != nil {
		return m.failed(ctx, err)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"release", m.release}, {"accept", m.accept}, {"end", m.end}} {
		if err := m.step(ctx, step.name, step.do); err != nil {
			return fmt.Errorf("%s lives in %s now, but the move has not ended; run the command again: %w", m.subject, m.to, err)
		}
	}
	return nil
}

func (m *move) leadToFlip(ctx context.Context) error {
	if err := pause(ctx, m.Settle); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"hold", m.hold}, {"copy", m.copy}, {"flip", m.flip}} {
		if err := m.step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

func (m *move) step(ctx context.Context, name string, do func(context.Context) error) error {
	m.show(func(p *Progress) { p.Step = name })
	err := do(ctx)
	if err == nil && m.reached != nil {
		err = m.reached(name)
	}
	return err
}

func (m *move) show(change func(*Progress)) {
	change(&m.progress)
	if m.Progress != nil {
		m.Progress(m.progress)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errKilled makes a test leave a move as a killed process does.
var errKilled = errors.New("killed")

// failed undoes a move that this process has begun.
func (m *move) failed(ctx context.Context, err error) error {
	if !m.began || errors.Is(err, errKilled) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if undone := m.undo(ctx, m.subject, m.id); undone != nil {
		return errors.Join(err, fmt.Errorf("the move was not undone; repeat it, or run: dreamcore cells undo %s: %w", m.subject, undone))
	}
	return err
}

// swap changes the map by compare-and-swap. change returns nil, nil to leave it.
func (v *Mover) swap(ctx context.Context, change func(*slots.Map) (func(*slots.Draft) error, error)) (*slots.Map, error) {
	for range maxTries {
		m, version, err := v.Maps.Load(ctx)
		if err != nil {
			return nil, err
		}
		edit, err := change(m)
		if err != nil || edit == nil {
			return m, err
		}
		next, err := m.Edit(edit)
		if err != nil {
			return nil, err
		}
		err = v.Maps.Store(ctx, next, version)
		if dreamcore.CodeOf(err) == dreamcore.CodeConflict {
			if err := pause(ctx, rand.N(swapPause)); err != nil {
				return nil, err
			}
			continue // another command has changed it meanwhile
		}
		return next, err
	}
	return nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the map of cells changes all the time", Hint: "look for other commands that move users"}
}

// place returns the cell of a subject and where it is moving to, if it is.
func place(m *slots.Map, s residence.Subject) (cell, moving string) {
	if s.User == "" {
		return m.Owner(s.Slot), m.MovingSlots()[s.Slot]
	}
	if cell, ok := m.Exceptions()[s.User]; ok {
		return cell, m.MovingUsers()[s.User]
	}
	return m.Owner(s.User.Slot()), m.MovingUsers()[s.User]
}

func conflict(hint, format string, a ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: fmt.Sprintf(format, a...), Hint: hint}
}

// checkOthers returns an error if a subject takes part in another move.
func checkOthers(at *slots.Map, s residence.Subject) error {
	if s.User != "" {
		if to := at.MovingSlots()[s.User.Slot()]; to != "" {
			return conflict("wait until it has ended", "the slot %d of the user is being moved to %s", s.User.Slot(), to)
		}
		return nil
	}
	for user, to := range at.MovingUsers() {
		if user.Slot() == s.Slot {
			return conflict("wait until it has ended", "user %s of the slot is being moved to %s", user, to)
		}
	}
	return nil
}

// begin notes the move in the map, unless it is there. flipped reports whether the map
// names the target already. from is "" if there is nothing to do.
func (m *move) begin(ctx context.Context) (flipped bool, err error) {
	m.show(func(p *Progress) { p.Step = "begin" })
	var cell, moving string
	at, err := m.swap(ctx, func(at *slots.Map) (func(*slots.Draft) error, error) {
		m.began, m.id = false, ""
		if !at.Has(m.to) {
			return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("there is no cell %q", m.to), Hint: "the cells are " + fmt.Sprint(at.Cells())}
		}
		if err := checkOthers(at, m.subject); err != nil {
			return nil, err
		}
		cell, moving = place(at, m.subject)
		if moving != "" && moving != m.to {
			return nil, conflict(fmt.Sprintf("finish it with --to %s, or undo it with: dreamcore cells undo %s", moving, m.subject), "%s is being moved from %s to %s already", m.subject, cell, moving)
		}
		if moving != "" || cell == m.to {
			return nil, nil
		}
		if at.Draining(m.to) {
			return nil, conflict("choose another cell", "the cell %s is being emptied", m.to)
		}
		m.began, m.id = true, uuid.NewString()
		return func(d *slots.Draft) error {
			if m.subject.User != "" {
				d.MovingUsers[m.subject.User] = m.to
			} else {
				d.MovingSlots[m.subject.Slot] = m.to
			}
			return nil
		}, nil
	})
	if err != nil {
		m.began = m.began && dreamcore.CodeOf(err) != dreamcore.CodeConflict // then it was not written
		return false, err
	}
	if cell != m.to {
		m.from = cell
	} else if m.from, err = m.source(ctx, at); err != nil {
		return true, err
	}
	if m.reached != nil {
		err = m.reached("begin")
	}
	return cell == m.to, err
}

// source returns the cell that a subject comes from whose move has flipped, or "" if
// nothing of the move is left to do.
func (m *move) source(ctx context.Context, at *slots.Map) (string, error) {
	_, moving := place(at, m.subject)
	found := m.ask(ctx, at, m.subject)
	st, ok := found[m.to]
	if m.subject.User != "" && (st.State == residence.Arrived || st.State == residence.Here) {
		m.id = st.Move
	}
	from := ""
	for name, other := range found {
		if name == m.to || other.Cell != m.to || m.id != "" && other.Move != m.id {
			continue
		}
		// An earlier move may have left a mark of a slot, too.
		if other.State == residence.Leaving || other.State == residence.Left && moving != "" && (from == "" || found[from].State == residence.Left && found[from].Since.Before(other.Since)) {
			from = name
		}
	}
	if from != "" {
		m.id = found[from].Move
		return from, nil
	}
	switch {
	case ok && st.State == residence.Arrived && st.Cell != "":
		return st.Cell, nil
	case ok && moving == "":
		return "", nil
	case len(found) < len(at.Cells()):
		return "", &dreamcore.Error{
			Code: dreamcore.CodeUnreachable, Message: fmt.Sprintf("%s lives in %s now, but only %d of %d cells answer: one of the others may hold what has moved", m.subject, m.to, len(found), len(at.Cells())),
			Hint: "run the command again when all of them do",
		}
	}
	return m.to, nil // nothing is left in the source
}

// maxAsked bounds the cells that are asked at once.
const maxAsked = 16

// ask asks all cells about a subject. Those that do not answer are left out.
func (v *Mover) ask(ctx context.Context, at *slots.Map, subject residence.Subject) map[string]relocation.Status {
	var mu sync.Mutex
	all := map[string]relocation.Status{}
	var running sync.WaitGroup
	slot := make(chan struct{}, maxAsked)
	for _, name := range at.Cells() {
		slot <- struct{}{}
		running.Go(func() {
			defer func() { <-slot }()
			cell, err := v.Cell(ctx, name)
			if err != nil {
				return
			}
			st, err := cell.Move(ctx, subject)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				all[name] = st
			}
		})
	}
	running.Wait()
	return all
}

// hold holds the subject in the source, and waits for its jobs.
func (m *move) hold(ctx context.Context) error {
	source, err := m.Cell(ctx, m.from)
	if err != nil {
		return err
	}
	at, _, err := m.Maps.Load(ctx)
	if err != nil {
		return err
	}
	o := relocation.HoldOptions{To: m.to, Move: m.id, Cut: m.Cut}
	if m.subject.User == "" {
		for user, cell := range at.Exceptions() {
			if m.subject.Has(user) && cell == m.from {
				o.Stay = append(o.Stay, user)
			}
		}
	}
	for until := time.Now().Add(m.Wait); ; {
		o.Wait = max(min(holdSlice, time.Until(until)), 0)
		m.status, err = source.HoldMove(ctx, m.subject, o)
		if err != nil {
			return err
		}
		if o.Move != "" && m.status.Move != o.Move {
			return m.undoneMeanwhile()
		}
		m.id, o.Move = m.status.Move, m.status.Move
		if m.status.Running == 0 {
			return nil
		}
		m.show(func(p *Progress) { p.Running = m.status.Running })
		if time.Now().After(until) {
			return &dreamcore.Error{
				Code: dreamcore.CodeBusy, Message: fmt.Sprintf("%d jobs of %s still run in %s", m.status.Running, m.subject, m.from),
				Hint: "move it later, wait longer with --wait, or cut the jobs with --cut: they go on in the other cell",
			}
		}
	}
}

func (m *move) undoneMeanwhile() error {
	return conflict("look at: dreamcore cells list", "another command has undone the move of %s", m.subject)
}

// users returns those whom the move copies.
func (m *move) users() []dreamcore.UserID {
	if m.subject.User != "" {
		return []dreamcore.UserID{m.subject.User} // who may have nothing but a block
	}
	return m.status.Users
}

// copy copies every user.
func (m *move) copy(ctx context.Context) error {
	users := m.users()
	m.show(func(p *Progress) { p.Users, p.Running = len(users), 0 })
	for i, user := range users {
		if err := m.copyUser(ctx, user); err != nil {
			return fmt.Errorf("copy user %s from %s to %s: %w", user, m.from, m.to, err)
		}
		m.show(func(p *Progress) { p.Copied = i + 1 })
	}
	return nil
}

func (m *move) copyUser(ctx context.Context, user dreamcore.UserID) error {
	source, err := m.Cell(ctx, m.from)
	if err != nil {
		return err
	}
	target, err := m.Cell(ctx, m.to)
	if err != nil {
		return err
	}
	there, err := target.Move(ctx, residence.Subject{User: user})
	if err != nil {
		return err
	}
	if there.State == residence.Arrived && there.Move == m.id {
		return nil // an earlier process has copied it, and nothing has changed since
	}
	archive, err := source.UserArchive(ctx, user)
	if err != nil {
		return err
	}
	defer archive.Close()
	sum := sha256.New()
	counted := io.TeeReader(archive, &counter{sum, func(n int) {
		m.result.Bytes += int64(n)
		m.show(func(p *Progress) { p.Bytes = m.result.Bytes })
	}})
	st, err := target.SendUserArchive(ctx, user, m.from, m.id, counted)
	if err != nil {
		return err
	}
	if st.Digest != hex.EncodeToString(sum.Sum(nil)) {
		return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the target has received something else than the source has sent", Hint: "look for a proxy between them"}
	}
	m.result.Users++
	return nil
}

type counter struct {
	w    io.Writer
	each func(n int)
}

func (c *counter) Write(p []byte) (int, error) {
	c.each(len(p))
	return c.w.Write(p)
}

// flip makes the map name the target.
func (m *move) flip(ctx context.Context) error {
	_, err := m.swap(ctx, func(at *slots.Map) (func(*slots.Draft) error, error) {
		cell, moving := place(at, m.subject)
		switch {
		case cell == m.to && moving == m.to:
			return nil, nil
		case cell != m.from || moving != m.to:
			return nil, m.undoneMeanwhile()
		}
		// After the map was loaded: if another command undoes the move from now on, it has
		// changed the map before, and the compare-and-swap fails.
		if err := m.ready(ctx); err != nil {
			return nil, err
		}
		return func(d *slots.Draft) error {
			if m.subject.User != "" {
				d.Users[m.subject.User] = m.to
			} else {
				d.Owner[m.subject.Slot] = m.to
			}
			forgetExceptions(d)
			return nil
		}, nil
	})
	return err
}

// ready returns an error unless both cells still take part in this move, and nothing
// else: the source holds the subject, and every user has arrived in the target.
func (m *move) ready(ctx context.Context) error {
	source, err := m.Cell(ctx, m.from)
	if err != nil {
		return err
	}
	target, err := m.Cell(ctx, m.to)
	if err != nil {
		return err
	}
	st, err := source.Move(ctx, m.subject)
	if err != nil {
		return err
	}
	if st.State != residence.Leaving || st.Cell != m.to || st.Move != m.id {
		return m.undoneMeanwhile()
	}
	for _, user := range m.users() {
		st, err := target.Move(ctx, residence.Subject{User: user})
		if err != nil {
			return err
		}
		if st.State != residence.Arrived || st.Move != m.id {
			return m.undoneMeanwhile()
		}
	}
	return nil
}

// forgetExceptions removes the exceptions that are none.
func forgetExceptions(d *slots.Draft) {
	maps.DeleteFunc(d.Users, func(user dreamcore.UserID, cell string) bool { return d.Owner[user.Slot()] == cell })
}

// release makes the source answer nothing any more.
func (m *move) release(ctx context.Context) error {
	if m.from == m.to {
		return nil
	}
	source, err := m.Cell(ctx, m.from)
	if err == nil {
		_, err = source.ReleaseMove(ctx, m.subject, m.to, m.id)
	}
	return err
}

func (m *move) accept(ctx context.Context) error {
	target, err := m.Cell(ctx, m.to)
	if err != nil {
		return err
	}
	var away []dreamcore.UserID
	if m.subject.User == "" {
		at, _, err := m.Maps.Load(ctx)
		if err != nil {
			return err
		}
		for user, cell := range at.Exceptions() {
			if m.subject.Has(user) && cell != m.to {
				away = append(away, user)
			}
		}
	}
	_, err = target.AcceptMove(ctx, m.subject, m.id, away)
	return err
}

// end removes the move from the map.
func (m *move) end(ctx context.Context) error {
	_, err := m.swap(ctx, func(at *slots.Map) (func(*slots.Draft) error, error) {
		if _, moving := place(at, m.subject); moving != m.to {
			return nil, nil
		}
		return func(d *slots.Draft) error { return m.forget(d) }, nil
	})
	return err
}

func (m *move) forget(d *slots.Draft) error {
	forget(d, m.subject)
	return nil
}

func forget(d *slots.Draft, s residence.Subject) {
	if s.User != "" {
		delete(d.MovingUsers, s.User)
	} else {
		delete(d.MovingSlots, s.Slot)
	}
}

// undoes returns the id of a move of which a cell has something to undo, or "": the
// owner what it holds, the others what has arrived.
func undoes(s residence.Subject, st relocation.Status, owner bool) string {
	switch {
	case owner && st.State != residence.Leaving:
		return ""
	case !owner && s.User == "":
		return st.Arriving
	case !owner && st.State != residence.Arriving && st.State != residence.Arrived:
		return ""
	}
	return st.Move
}

// Undo takes back a move that has not reached the flip. CodeConflict: it has.
func (v *Mover) Undo(ctx context.Context, subject residence.Subject) error {
	return v.undo(ctx, subject, "")
}

// undo is Undo of the move of an id, if it is not "", and of no other.
func (v *Mover) undo(ctx context.Context, subject residence.Subject, id string) error {
	at, err := v.swap(ctx, func(at *slots.Map) (func(*slots.Draft) error, error) {
		if err := checkOthers(at, subject); err != nil {
			return nil, err
		}
		cell, moving := place(at, subject)
		if moving != "" && moving == cell {
			return nil, conflict(fmt.Sprintf("finish the move with --to %s, and then move it back", cell), "%s lives in %s already", subject, cell)
		}
		if moving == "" {
			return nil, nil
		}
		if id != "" && v.holdsOther(ctx, subject, cell, id) {
			return nil, nil // which goes on
		}
		return func(d *slots.Draft) error {
			forget(d, subject)
			return nil
		}, nil
	})
	if err != nil {
		return err
	}
	owner, _ := place(at, subject)
	found := v.ask(ctx, at, subject)
	var errs []error
	if len(found) < len(at.Cells()) {
		errs = append(errs, &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: fmt.Sprintf("only %d of %d cells answer", len(found), len(at.Cells())), Hint: "repeat it when all of them do: one may still hold the user"})
	}
	if id == "" {
		// A move that another command begins after this has an id that was not found.
		now, _, err := v.Maps.Load(ctx)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if _, moving := place(now, subject); moving != "" {
			return conflict("look at: dreamcore cells list", "another command has begun a move of %s", subject)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		errs = append(errs, v.undoIn(ctx, name, subject, found[name], name == owner, id))
	}
	return errors.Join(errs...)
}

// holdsOther reports whether a cell holds a subject for another move than that of an id.
func (v *Mover) holdsOther(ctx context.Context, subject residence.Subject, name, id string) bool {
	cell, err := v.Cell(ctx, name)
	if err != nil {
		return false
	}
	st, err := cell.Move(ctx, subject)
	return err == nil && st.State == residence.Leaving && st.Move != id
}

// undoIn undoes in a cell what st says, only of the move of id if it is not "".
func (v *Mover) undoIn(ctx context.Context, name string, subject residence.Subject, st relocation.Status, owner bool, only string) error {
	for range maxTries { // users of a slot may have arrived in several moves
		id := undoes(subject, st, owner)
		if id == "" || only != "" && id != only {
			return nil
		}
		cell, err := v.Cell(ctx, name)
		if err == nil {
			st, err = cell.UndoMove(ctx, subject, id)
		}
		if err != nil || owner {
			return err
		}
	}
	return nil
}
