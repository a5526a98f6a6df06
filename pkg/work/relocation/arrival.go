package relocation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
)

// Load takes in the archive of a user that another cell has made in a move. Nothing is
// done before the whole archive was received and checked; then an older copy of the
// user is replaced. The copy answers reads and nothing else until Accept. CodeConflict: the
// user has a live copy here, or one of another move; CodeInvalid, CodeTooLarge: those of
// the archive.
func (s *Service) Load(ctx context.Context, user dreamcore.UserID, from, move string, r io.Reader) (Status, error) {
	subject := residence.Subject{User: user}
	leave, err := s.enter(subject)
	if err != nil {
		return Status{}, err
	}
	defer leave()
	if err := s.vacant(ctx, user, move); err != nil {
		return Status{}, err
	}
	file := filepath.Join(s.parts.SpoolDir, string(user)+archive.UserFormat)
	defer os.Remove(file) // what a crash leaves, Sweep removes
	digest, err := s.spool(file, r)
	if err != nil {
		return Status{}, err
	}
	if _, err := archive.CheckUser(ctx, file, user); err != nil {
		return Status{}, err
	}
	select { // a depot takes in one archive at a time
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return Status{}, context.Cause(ctx)
	}
	s.reached("checked")
	m := residence.Mark{State: residence.Arriving, Cell: from, Since: time.Now().UTC(), Move: move}
	if err := s.parts.Residence.Set(subject, m); err != nil {
		return Status{}, err
	}
	s.reached("arriving")
	if err := s.parts.Accounts.EraseCopy(ctx, user); err != nil {
		return Status{}, err
	}
	s.reached("erased")
	leftOut, err := s.load(ctx, file, user)
	if err != nil {
		return Status{}, err
	}
	s.reached("loaded")
	m.State, m.Digest = residence.Arrived, digest
	if err := s.parts.Residence.Set(subject, m); err != nil {
		return Status{}, err
	}
	s.log.Info("took in a user of another cell", "user", string(user), "from", from)
	st := statusOf(subject, m)
	st.LeftOut = leftOut
	return st, nil
}

// vacant returns an error if the user has a copy here that must not be replaced.
func (s *Service) vacant(ctx context.Context, user dreamcore.UserID, move string) error {
	own, _ := s.parts.Residence.Get(residence.Subject{User: user})
	switch own.State {
	case residence.Left:
		return nil
	case residence.Arriving, residence.Arrived:
		if own.Move != move {
			return conflict("run: dreamcore cells undo "+string(user)+", or with the slot of the user, and move again", "user %s is %s here in another move", user, own.State)
		}
		return nil
	case residence.Leaving, residence.Here, residence.Damaged:
		return conflict("finish or undo that move first", "user %s is %s here", user, own.State)
	}
	members, err := s.members(ctx, residence.Subject{User: user})
	if err == nil && len(members) > 0 {
		err = conflict("look at both cells, and delete the copy that is not wanted", "user %s has files or jobs of their own in this cell", user)
	}
	return err
}

// freeStep is how often the free space is checked while an archive is received.
const freeStep = 64 << 20

// spool receives an archive and returns its SHA-256.
func (s *Service) spool(file string, r io.Reader) (digest string, err error) {
	if err := os.MkdirAll(s.parts.SpoolDir, 0o700); err != nil {
		return "", statefile.Error("receive the archive", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", statefile.Error("receive the archive", err)
	}
	defer f.Close()
	sum := sha256.New()
	for total := int64(0); ; {
		if s.parts.CheckFree != nil {
			if err := s.parts.CheckFree(freeStep); err != nil {
				return "", err
			}
		}
		n, err := io.CopyN(io.MultiWriter(f, sum), r, freeStep)
		if total += n; total > archive.MaxUserArchive {
			return "", &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the archive is too large", Hint: "delete projects of the user that are not needed"}
		}
		if err == io.EOF {
			break
		}
		if err != nil && statefile.IsFull(err) {
			return "", statefile.Error("receive the archive", err)
		}
		if err != nil {
			return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the archive was not received completely", Hint: "send it again", Err: err}
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// load fills the stores. It returns notes of what was left out of the copy.
func (s *Service) load(ctx context.Context, file string, user dreamcore.UserID) ([]string, error) {
	var jobs []string
	notes, err := s.parts.Depot.LoadUser(ctx, file, user, archive.UserStores{
		Log: func(job string, written time.Time, r io.Reader) error {
			jobs = append(jobs, job)
			return s.parts.Journal.Import(job, user, written, r)
		},
		Usage: func(r io.Reader) error {
			_, err := s.parts.Ledger.Import(user, r)
			return err
		},
		Block: func(b block.Block) error {
			_, err := s.parts.Blocks.Set(user, b.Reason, b.Since)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	s.noteLeftOut(user, notes)
	return notes, s.parts.Jobs.Adopt(ctx, user, jobs)
}

// Accept makes what has arrived live here. It must be called only when the map names
// this cell and the other one has released the subject. Jobs that were cut go on.
// away has the users of a slot who live in other cells as exceptions. CodeConflict:
// nothing has arrived in this move.
func (s *Service) Accept(ctx context.Context, subject residence.Subject, move string, away []dreamcore.UserID) (Status, error) {
	leave, err := s.enter(subject)
	if err != nil {
		return Status{}, err
	}
	defer leave()
	marks := s.parts.Residence
	if subject.User == "" {
		err = s.acceptSlot(ctx, subject, move, away)
	} else {
		err = s.acceptUser(subject, move)
	}
	if err == nil {
		err = s.parts.Jobs.Reconcile(ctx)
	}
	m, _ := marks.Get(subject)
	return statusOf(subject, m), err
}

func (s *Service) acceptUser(subject residence.Subject, move string) error {
	m, _ := s.parts.Residence.Get(subject)
	switch {
	case m.State == residence.Here && m.Move == move && move != "":
		return nil // it was accepted before
	case m.State != residence.Arrived:
		return conflict("copy the user first", "user %s has not arrived here: the state is %q", subject, m.State)
	case m.Move != move:
		return otherMove(subject)
	}
	return s.liveHere(subject, move)
}

// liveHere lets a user live here, and notes the move that was accepted, if any.
func (s *Service) liveHere(user residence.Subject, move string) error {
	slot, _ := s.parts.Residence.Get(residence.Subject{Slot: user.User.Slot()})
	if slot.State != "" || move != "" { // the slot's would hold for the user too
		return s.parts.Residence.Set(user, residence.Mark{State: residence.Here, Since: time.Now().UTC(), Move: move})
	}
	return s.parts.Residence.Remove(user)
}

// acceptSlot also removes the marks of users who lived here as exceptions, and of those
// who have left before and live here again if they come back: with their slot.
func (s *Service) acceptSlot(ctx context.Context, subject residence.Subject, move string, away []dreamcore.UserID) error {
	m, _ := s.parts.Residence.Get(subject)
	if m.State == residence.Leaving {
		return conflict("finish or undo that move first", "%s is leaving for %s", subject, m.Cell)
	}
	for own, m := range s.parts.Residence.All() {
		if own.User == "" || !subject.Has(own.User) {
			continue
		}
		if arrives(m) && m.Move != move {
			return otherMove(own)
		}
		switch m.State {
		case residence.Left:
			if !slices.Contains(away, own.User) {
				if err := s.forgetLeft(ctx, own, m); err != nil {
					return err
				}
			}
		case residence.Arriving:
			return conflict("copy the user first", "user %s is %s here", own, m.State)
		case residence.Arrived, residence.Here:
			// The slot's mark goes last, so this must be said of the user.
			if err := s.parts.Residence.Set(own, residence.Mark{State: residence.Here, Since: time.Now().UTC()}); err != nil {
				return err
			}
		}
	}
	if err := s.parts.Residence.Remove(subject); err != nil {
		return err
	}
	return s.forgetHere(subject)
}

// forgetLeft removes the mark of a user who has left, and the rest of the copy.
func (s *Service) forgetLeft(ctx context.Context, user residence.Subject, m residence.Mark) error {
	leave, err := s.enter(user)
	if err != nil {
		return err
	}
	defer leave()
	if !m.Erased {
		if err := s.parts.Accounts.EraseCopy(ctx, user.User); err != nil {
			return err
		}
	}
	return s.parts.Residence.Remove(user)
}

// forgetHere removes the marks of users of a slot without one that live here.
func (s *Service) forgetHere(slot residence.Subject) (err error) {
	for own, m := range s.parts.Residence.All() {
		if own.User != "" && slot.Has(own.User) && m.State == residence.Here {
			err = errors.Join(err, s.parts.Residence.Remove(own))
		}
	}
	return err
}

// Undo takes a move back: in the source, the subject lives here as before, and in the
// target, its copy is removed. It must not be called once the map names the target.
// CodeConflict: the source has released the subject, or it takes part in another move.
func (s *Service) Undo(ctx context.Context, subject residence.Subject, move string) (Status, error) {
	leave, err := s.enter(subject)
	if err != nil {
		return Status{}, err
	}
	defer leave()
	m, _ := s.parts.Residence.Get(subject)
	switch m.State {
	case residence.Left:
		if subject.User != "" {
			return Status{}, conflict("move it back", "%s lives in %s now", subject, m.Cell)
		}
		err = s.undoArrivals(ctx, subject, move) // the slot was to come back
	case residence.Leaving:
		if m.Move != move {
			return Status{}, otherMove(subject)
		}
		if subject.User != "" {
			err = s.liveHere(subject, "")
		} else if err = s.parts.Residence.Remove(subject); err == nil {
			err = s.forgetHere(subject)
		}
		if err == nil {
			err = s.parts.Jobs.Reconcile(ctx)
		}
	default:
		err = s.undoArrivals(ctx, subject, move)
	}
	if err == nil {
		s.log.Info("a move was undone", "subject", subject.String(), "state", m.State)
	}
	m, _ = s.parts.Residence.Get(subject)
	st := statusOf(subject, m)
	st.Arriving = s.arriving(subject)
	return st, err
}

// undoArrivals removes the copies of a subject that have arrived in a move, or a part of
// them.
func (s *Service) undoArrivals(ctx context.Context, subject residence.Subject, move string) error {
	for own, m := range s.parts.Residence.All() {
		if own.User == "" || !subject.Has(own.User) || !arrives(m) {
			continue
		}
		if m.Move != move {
			if own == subject {
				return otherMove(subject)
			}
			continue
		}
		m.State = residence.Arriving // so that nothing is answered from a part of it
		if err := s.parts.Residence.Set(own, m); err != nil {
			return err
		}
		if err := s.parts.Accounts.EraseCopy(ctx, own.User); err != nil {
			return err
		}
		if err := s.parts.Residence.Remove(own); err != nil {
			return err
		}
	}
	return nil
}

// Sweep removes what a crash has left of archives. It must be called before anything
// else.
func (s *Service) Sweep() error {
	if err := os.RemoveAll(s.parts.SpoolDir); err != nil {
		return statefile.Error("remove unfinished archives", err)
	}
	return nil
}
