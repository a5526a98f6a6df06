package daemon

import (
	"context"
	"log/slog"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// startControl opens the socket through which commands on this machine reach
// the sandboxes.
func (s *Service) startControl(state *State, log *slog.Logger) error {
	c, err := control.Listen(state.Path(RunDir), sandboxes{s.Jobs, s.spares}, s.Journal, s.previews.links(), log)
	if err != nil {
		return err
	}
	s.closeControl = sync.OnceValue(c.Close)
	s.undo.addClose(s.closeControl)
	return nil
}

// sandboxes are all sandboxes of the service: those of users and the standby
// ones.
type sandboxes struct {
	*job.Service
	spares *workspace.Standby
}

// Sandboxes implements control.Sandboxes.
func (s sandboxes) Sandboxes() []workspace.Info {
	return append(s.Service.Sandboxes(), s.spares.List()...)
}

// StopSandbox implements control.Sandboxes.
func (s sandboxes) StopSandbox(ctx context.Context, name string) error {
	if err := notSpare(name); err != nil {
		return err
	}
	return s.Service.StopSandbox(ctx, name)
}

// Exec implements control.Sandboxes.
func (s sandboxes) Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error) {
	if err := notSpare(name); err != nil {
		return sandbox.Exit{}, err
	}
	return s.Service.Exec(ctx, name, cmd)
}

// SandboxJobs implements control.Sandboxes.
func (s sandboxes) SandboxJobs(name string) ([]string, error) {
	if err := notSpare(name); err != nil {
		return nil, err
	}
	return s.Service.SandboxJobs(name)
}

// notSpare refuses the name that standby sandboxes have in lists.
func notSpare(name string) error {
	if name != workspace.StandbyName {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: "standby sandboxes have no user",
		Hint: "name a user's sandbox (dreamcore ps lists them); to have no standby sandboxes, set spare_sandboxes to 0",
	}
}
