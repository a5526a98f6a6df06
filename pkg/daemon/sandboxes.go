package daemon

import (
	"log/slog"
	"slices"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// startControl opens the socket through which commands on this machine reach
// the sandboxes.
func (s *Service) startControl(state *State, log *slog.Logger) error {
	c, err := control.Listen(state.Path(RunDir), control.Parts{
		Sandboxes: sandboxes{s.workspaces, s.spares}, Jobs: s.Jobs, Accounts: s.accounts, Journal: s.Journal, Previews: s.previews.links(),
	}, log)
	if err != nil {
		return err
	}
	s.drainControl = c.Drain
	s.closeControl = sync.OnceValue(c.Close)
	s.undo.addClose(s.closeControl)
	return nil
}

// sandboxes are all sandboxes of the service: those of users and the standby
// ones.
type sandboxes struct {
	*workspace.Pool
	spares *workspace.Standby
}

// List implements control.Sandboxes.
func (s sandboxes) List() []workspace.Info {
	return slices.Concat(s.Pool.List(), s.Pool.Standby(), s.spares.List())
}
