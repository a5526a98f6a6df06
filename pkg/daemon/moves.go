package daemon

import (
	"context"
	"io"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// keepLeft is how long the copy of a user who has moved to another cell is kept.
const keepLeft = 24 * time.Hour

// openMoves opens what moves users between cells. It comes after the accounts.
func (m *Machine) openMoves() error {
	if err := m.state.residence.Own(); err != nil {
		return err
	}
	m.moves = relocation.New(relocation.Parts{
		Residence: m.state.residence, Accounts: m.accounts, Jobs: m.Jobs, Sandboxes: m.workspaces, Depot: depot{m},
		Journal: m.Journal, Blocks: m.blocks, Ledger: m.ledger, UsageDir: m.state.Path(UsageDir),
		SpoolDir: m.state.Path(arrivalsDir), CheckFree: m.state.Volumes.CheckFreeFor, Logger: m.log,
	})
	return m.moves.Sweep()
}

// movesOf returns the moves of a service; a trial has none.
func (m *Machine) movesOf(o Options) server.Moves {
	if o.Trial || m.moves == nil {
		return nil
	}
	return m.moves
}

// depot copies users; several calls may run at once.
type depot struct{ m *Machine }

func (d depot) open() *archive.Depot {
	return archive.New(d.m.state.Volumes, d.m.history, archive.Options{StateDir: d.m.state.Config.State})
}

// SaveUser implements relocation.Depot.
func (d depot) SaveUser(ctx context.Context, user dreamcore.UserID, parts archive.UserParts, w io.Writer) (archive.Contents, error) {
	return d.open().SaveUser(ctx, user, parts, w)
}

// LoadUser implements relocation.Depot.
func (d depot) LoadUser(ctx context.Context, src string, user dreamcore.UserID, stores archive.UserStores) ([]string, error) {
	return d.open().LoadUser(ctx, src, user, stores)
}

// eraseLeft removes the copies of users who have moved to other cells.
func (m *Machine) eraseLeft(ctx context.Context) {
	erased, err := m.moves.EraseLeft(ctx, time.Now().Add(-keepLeft))
	if err != nil && ctx.Err() == nil {
		m.log.Error("the copy of a user who lives in another cell is not erased; it is tried again", "error", err)
	}
	if erased > 0 {
		m.log.Info("erased the copies of users who live in other cells", "users", erased)
	}
}

// away reports whether the jobs of a user belong to another cell.
func (m *Machine) away(user dreamcore.UserID) bool { return m.state.residence.CheckChange(user) != nil }

// residents are the projects of users who live here, for previews.
type residents struct{ s *State }

// Find implements preview.Projects.
func (r residents) Find(user dreamcore.UserID, project dreamcore.ProjectID) (*volume.Project, error) {
	if err := r.s.residence.CheckRead(user); err != nil {
		return nil, err
	}
	return r.s.Volumes.Find(user, project)
}
