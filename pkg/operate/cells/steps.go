package cells

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

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
	for _, note := range st.LeftOut {
		if len(m.result.LeftOut) == maxLeftOut {
			m.result.LeftOutMore++
			continue
		}
		m.result.LeftOut = append(m.result.LeftOut, LeftOut{user, note})
	}
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
