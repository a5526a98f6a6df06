// Package relocation is a cell's part in moving users to other cells and taking them
// in. A driver outside leads each move through its steps, in both cells; see
// pkg/cluster/move for their order.
//
//	source   Hold → Save …………………… Release → (a day later) EraseLeft
//	target          Load …………………………………… Accept
//
// Each step may be repeated, by another driver too, also after a crash. Each names the
// id of its move, and is refused if another move has begun meanwhile. Undo takes a move
// back until Release. Before Release the copy in the source is whole, and nothing
// is ever changed or run in both cells.
//
// The files: relocation.go has the source's steps, arrival.go the target's.
package relocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Jobs are the jobs of this cell; *job.Service implements it and documents the errors.
type Jobs interface {
	Leave(ctx context.Context, of func(dreamcore.UserID) bool, wait time.Duration, cut bool) (running int, err error)
	IDs(ctx context.Context, user dreamcore.UserID) ([]string, error)
	Adopt(ctx context.Context, user dreamcore.UserID, ids []string) error
	Reconcile(ctx context.Context) error
}

// Accounts are the users of this cell; *account.Service implements it.
type Accounts interface {
	AllUsers(ctx context.Context) ([]dreamcore.UserID, error)
	Remaining(users []dreamcore.UserID) ([]dreamcore.UserID, error)
	EraseCopy(ctx context.Context, user dreamcore.UserID) error
}

// Sandboxes are the sandboxes of users; *workspace.Pool implements it.
type Sandboxes interface {
	List() []workspace.Info
	Stop(ctx context.Context, name string) error // CodeNotFound for an unknown name
}

// Depot copies users; *archive.Depot implements it.
type Depot interface {
	SaveUser(ctx context.Context, user dreamcore.UserID, parts archive.UserParts, w io.Writer) (archive.Contents, error)
	LoadUser(ctx context.Context, src string, user dreamcore.UserID, stores archive.UserStores) (notes []string, err error)
}

// Parts are the components that a Service uses. The caller closes them after it.
type Parts struct {
	Residence *residence.Store
	Accounts  Accounts
	Jobs      Jobs
	Sandboxes Sandboxes
	Depot     Depot
	Journal   *journal.Store
	Blocks    *block.Store
	Ledger    *usage.Ledger
	UsageDir  string                  // of the ledger
	SpoolDir  string                  // where archives are kept while they are taken in
	CheckFree func(bytes int64) error // returns an error unless the disk has room for so many bytes; may be nil
	Logger    *slog.Logger            // may be nil
}

// Service is safe for concurrent use. One call at a time works on a subject.
type Service struct {
	parts Parts
	log   *slog.Logger

	mu   sync.Mutex
	busy map[residence.Subject]bool // guarded by mu

	turn chan struct{} // a mutex with a deadline: arrivals fill the stores in turn

	reached func(step string) // called after each step of an arrival; for tests
}

// New returns a Service. Its residence.Store must be owned.
func New(parts Parts) *Service {
	if parts.Logger == nil {
		parts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{parts: parts, log: parts.Logger, busy: map[residence.Subject]bool{}, turn: make(chan struct{}, 1), reached: func(string) {}}
}

func conflict(hint, format string, a ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: fmt.Sprintf(format, a...), Hint: hint}
}

// enter keeps other calls from a subject until leave is called.
func (s *Service) enter(subject residence.Subject) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[subject] {
		return nil, conflict("wait until it has ended", "another request works on the move of %s", subject)
	}
	s.busy[subject] = true
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.busy, subject)
	}, nil
}

// Status is the state of a subject in this cell.
type Status struct {
	Subject string          `json:"subject"`
	State   residence.State `json:"state"` // "" if it does not move, and never has
	Cell    string          `json:"cell,omitempty"`
	Since   time.Time       `json:"since,omitzero"`
	Move    string          `json:"move,omitempty"`
	Digest  string          `json:"digest,omitempty"`
	Erased  bool            `json:"erased,omitempty"`
	// Arriving is the id of a move in which users of a slot arrive here, or have arrived.
	Arriving string `json:"arriving,omitempty"`
	// Running counts the jobs and checks that Hold still waits for.
	Running int `json:"running,omitempty"`
	// Users has the users of a slot here that belong to its move, or the user itself if
	// there is anything of the user.
	Users []dreamcore.UserID `json:"users,omitempty"`
	// LeftOut has a note for each file of a user that exceeds limits or may not be read, and
	// so is not in the copy that has just been taken in: at most 101.
	LeftOut []string `json:"left_out,omitempty"`
}

func statusOf(subject residence.Subject, m residence.Mark) Status {
	return Status{Subject: subject.String(), State: m.State, Cell: m.Cell, Since: m.Since, Move: m.Move, Digest: m.Digest, Erased: m.Erased}
}

// List returns the status of everything that moves or has moved, sorted.
func (s *Service) List() []Status {
	all := []Status{}
	for subject, m := range s.parts.Residence.All() {
		all = append(all, statusOf(subject, m))
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Subject, b.Subject) })
	return all
}

// Status returns the status of one subject.
func (s *Service) Status(ctx context.Context, subject residence.Subject) (Status, error) {
	m, _ := s.parts.Residence.Get(subject)
	st := statusOf(subject, m)
	st.Arriving = s.arriving(subject)
	var err error
	st.Users, err = s.movers(ctx, subject)
	return st, err
}

// arriving returns the first of the ids of moves in which users of a slot arrive.
func (s *Service) arriving(slot residence.Subject) (move string) {
	if slot.User != "" {
		return ""
	}
	for own, m := range s.parts.Residence.All() {
		if own.User != "" && slot.Has(own.User) && arrives(m) && (move == "" || m.Move < move) {
			move = m.Move
		}
	}
	return move
}

// arrives reports whether a mark is that of a copy which does not live here yet.
func arrives(m residence.Mark) bool {
	return m.State == residence.Arriving || m.State == residence.Arrived
}

// otherMove is the error of a step of a move that is not the one of a mark.
func otherMove(subject residence.Subject) error {
	return conflict("look at: dreamcore cells list", "%s takes part in another move here: this one was undone", subject)
}

// None is that of residence.Store.
func (s *Service) None() bool { return s.parts.Residence.None() }

// CheckRead and CheckChange are those of residence.Store.
func (s *Service) CheckRead(user dreamcore.UserID) error { return s.parts.Residence.CheckRead(user) }

// CheckChange is CheckRead for what changes something.
func (s *Service) CheckChange(user dreamcore.UserID) error {
	return s.parts.Residence.CheckChange(user)
}

// members returns the users of a subject that have something here, without those of a
// slot that have a mark of their own.
func (s *Service) members(ctx context.Context, subject residence.Subject) ([]dreamcore.UserID, error) {
	all, err := s.parts.Accounts.AllUsers(ctx)
	return slices.DeleteFunc(all, func(u dreamcore.UserID) bool { return !s.belongs(subject, u) }), err
}

// movers returns the members of a subject, and those of a slot that have only spent
// something this month: it counts for their limits.
func (s *Service) movers(ctx context.Context, subject residence.Subject) ([]dreamcore.UserID, error) {
	all, err := s.members(ctx, subject)
	if err != nil || subject.User != "" {
		return all, err
	}
	spent, err := s.parts.Ledger.Spending()
	if err != nil {
		return nil, err
	}
	for user := range spent {
		if id, err := dreamcore.ParseUserID(string(user)); err == nil && id == user && s.belongs(subject, user) {
			all = append(all, user)
		}
	}
	return s.parts.Accounts.Remaining(all)
}

// belongs reports whether a user moves with a subject.
func (s *Service) belongs(subject residence.Subject, user dreamcore.UserID) bool {
	if subject.User != "" {
		return subject.User == user
	}
	_, own := s.parts.Residence.Get(residence.Subject{User: user})
	return subject.Has(user) && !own
}

// HoldOptions are how a subject is held.
type HoldOptions struct {
	To   string             // the cell that the subject moves to
	Move string             // the id of a move that begins; "" for the one that has begun
	Wait time.Duration      // for jobs that run
	Cut  bool               // jobs that run are cut, and go on in the other cell
	Stay []dreamcore.UserID // users of the slot that live here as exceptions, and stay
}

// Hold keeps everything of a subject as it is, so that it can be copied: reads are
// answered, nothing else. It waits for jobs that run, see Status.Running, and then
// closes the sandboxes. CodeConflict: the subject takes part in another move.
func (s *Service) Hold(ctx context.Context, subject residence.Subject, o HoldOptions) (Status, error) {
	leave, err := s.enter(subject)
	if err != nil {
		return Status{}, err
	}
	defer leave()
	marks := s.parts.Residence
	m, _ := marks.Get(subject)
	switch {
	case m.State == residence.Left && m.Cell == o.To:
		return statusOf(subject, m), nil
	case m.State == residence.Leaving && m.Cell == o.To && (o.Move == "" || o.Move == m.Move):
	case m.State == "", m.State == residence.Here:
		if subject.User != "" && m.State == "" {
			if slot := marks.Of(subject.User); slot.State != "" {
				return Status{}, conflict("finish that move first", "the slot of user %s is %s %s", subject, slot.State, slot.Cell)
			}
		}
		if err := s.checkUsers(subject); err != nil {
			return Status{}, err
		}
		if err := s.stay(subject, o.Stay); err != nil {
			return Status{}, err
		}
		m = residence.Mark{State: residence.Leaving, Cell: o.To, Since: time.Now().UTC(), Move: cmp.Or(o.Move, uuid.NewString())}
		if err := marks.Set(subject, m); err != nil {
			return Status{}, err
		}
		s.log.Info("a move has begun: nothing changes any more", "subject", subject.String(), "to", o.To)
	default:
		return Status{}, conflict("finish that move, or run: dreamcore cells undo "+subject.String(), "%s is %s here in another move, to or from %s", subject, m.State, m.Cell)
	}
	st := statusOf(subject, m)
	of := func(u dreamcore.UserID) bool { return s.belongs(subject, u) }
	if st.Running, err = s.parts.Jobs.Leave(ctx, of, o.Wait, o.Cut); err != nil || st.Running > 0 {
		return st, err
	}
	if err := s.closeSandboxes(ctx, of); err != nil {
		return st, err
	}
	st.Users, err = s.movers(ctx, subject)
	return st, err
}

// checkUsers returns an error if a user of a slot takes part in a move alone.
func (s *Service) checkUsers(subject residence.Subject) error {
	for own, m := range s.parts.Residence.All() {
		if subject.User != "" || own.User == "" || !subject.Has(own.User) {
			continue
		}
		switch m.State {
		case residence.Leaving, residence.Arriving, residence.Arrived:
			return conflict("finish that move, or run: dreamcore cells undo "+string(own.User), "user %s of %s is %s here", own.User, subject, m.State)
		case residence.Damaged:
			return conflict("look at moves/"+string(own.User)+" in the state directory of this cell", "what is noted of the moves of user %s of %s cannot be read", own.User, subject)
		}
	}
	return nil
}

// stay marks the users of a slot that do not move with it, and those only: a user who
// was accepted here alone moves with the slot.
func (s *Service) stay(subject residence.Subject, users []dreamcore.UserID) error {
	for own, m := range s.parts.Residence.All() {
		if subject.User == "" && own.User != "" && subject.Has(own.User) && m.State == residence.Here && !slices.Contains(users, own.User) {
			if err := s.parts.Residence.Remove(own); err != nil {
				return err
			}
		}
	}
	for _, u := range users {
		own := residence.Subject{User: u}
		if _, ok := s.parts.Residence.Get(own); ok || subject.User != "" || !subject.Has(u) {
			continue
		}
		if err := s.parts.Residence.Set(own, residence.Mark{State: residence.Here, Since: time.Now().UTC()}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) closeSandboxes(ctx context.Context, of func(dreamcore.UserID) bool) error {
	if s.parts.Sandboxes == nil {
		return nil
	}
	for _, i := range s.parts.Sandboxes.List() {
		if !of(i.User) {
			continue
		}
		if err := s.parts.Sandboxes.Stop(ctx, workspace.Name(i.User)); err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
			return err
		}
	}
	return nil
}

// Save writes the archive of a user who is held: see archive.Depot.SaveUser. move is
// the id of the move. The user need not exist.
func (s *Service) Save(ctx context.Context, user dreamcore.UserID, w io.Writer) error {
	m := s.parts.Residence.Of(user)
	if m.State != residence.Leaving {
		return conflict("hold the user, or the slot of the user, first", "user %s is not held", user)
	}
	jobs, err := s.parts.Jobs.IDs(ctx, user)
	if err != nil {
		return err
	}
	parts := archive.UserParts{Jobs: jobs, Usage: func(w io.Writer) error { return usage.WriteUser(s.parts.UsageDir, user, w) }}
	b, blocked, err := s.parts.Blocks.Get(user)
	if err != nil {
		return err
	}
	if blocked {
		parts.Block = &b
	}
	c, err := s.parts.Depot.SaveUser(ctx, user, parts, w)
	if err == nil {
		s.log.Info("copied a user for another cell", "user", string(user), "to", m.Cell, "entries", c.Entries, "bytes", c.Bytes)
		s.noteLeftOut(user, c.Notes)
	}
	return err
}

// noteLeftOut logs what a copy leaves out, in brief: a user chose how much that is.
func (s *Service) noteLeftOut(user dreamcore.UserID, notes []string) {
	const most = 10
	if n := len(notes); n > 0 {
		s.log.Warn("files of a user do not move: they exceed limits, or may not be read", "user", string(user), "notes", n, "first", notes[:min(n, most)])
	}
}

// Release gives a held subject up: from now on nothing of it is answered here. It must
// be called only when the map names the other cell. CodeConflict: it is not held, or for
// another move; CodeBusy: jobs of it run.
func (s *Service) Release(ctx context.Context, subject residence.Subject, to, move string) (Status, error) {
	leave, err := s.enter(subject)
	if err != nil {
		return Status{}, err
	}
	defer leave()
	m, _ := s.parts.Residence.Get(subject)
	switch {
	case m.State == residence.Left && m.Cell == to && m.Move == move:
		return statusOf(subject, m), nil
	case m.State != residence.Leaving || m.Cell != to:
		return Status{}, conflict("hold it first", "%s is not held for %s", subject, to)
	case m.Move != move:
		return Status{}, otherMove(subject)
	}
	running, err := s.parts.Jobs.Leave(ctx, func(u dreamcore.UserID) bool { return s.belongs(subject, u) }, 0, false)
	if err != nil {
		return Status{}, err
	}
	if running > 0 {
		return Status{}, &dreamcore.Error{Code: dreamcore.CodeBusy, Message: fmt.Sprintf("%d jobs of %s still run", running, subject), Hint: "hold it again until they have ended"}
	}
	members, err := s.movers(ctx, subject)
	if err != nil {
		return Status{}, err
	}
	m.State, m.Since = residence.Left, time.Now().UTC()
	for _, u := range members { // of a slot: they can come back one by one
		if err := s.parts.Residence.Set(residence.Subject{User: u}, m); err != nil {
			return Status{}, err
		}
	}
	if err := s.parts.Residence.Set(subject, m); err != nil {
		return Status{}, err
	}
	s.log.Info("users live in another cell now", "subject", subject.String(), "cell", to, "users", len(members))
	return statusOf(subject, m), nil
}

// EraseLeft removes the copies of users who have left before a time. The error joins
// those of all users whose copy could not be removed; the next call tries them again.
func (s *Service) EraseLeft(ctx context.Context, before time.Time) (erased int, err error) {
	for subject, m := range s.parts.Residence.All() {
		if subject.User == "" || m.State != residence.Left || m.Erased || !m.Since.Before(before) {
			continue
		}
		if ctx.Err() != nil {
			return erased, errors.Join(err, context.Cause(ctx))
		}
		if failed := s.eraseLeft(ctx, subject, m); failed != nil {
			err = errors.Join(err, fmt.Errorf("remove the copy of %s: %w", subject, failed))
			continue
		}
		erased++
	}
	return erased, err
}

func (s *Service) eraseLeft(ctx context.Context, subject residence.Subject, m residence.Mark) error {
	leave, err := s.enter(subject)
	if err != nil {
		return err
	}
	defer leave()
	if now, _ := s.parts.Residence.Get(subject); now != m {
		return nil // the user comes back
	}
	if err := s.parts.Accounts.EraseCopy(ctx, subject.User); err != nil {
		return err
	}
	slot, _ := s.parts.Residence.Get(residence.Subject{Slot: subject.User.Slot()})
	if slot.State == residence.Left { // which holds for the user too
		return s.parts.Residence.Remove(subject)
	}
	m.Erased = true
	return s.parts.Residence.Set(subject, m)
}
