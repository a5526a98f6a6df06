package daemon

import (
	"context"
	"errors"
	"log/slog"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/doctor"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// Diagnosis opens what the doctor examines: the state directory, then a machine. Its
// fields must be set. The caller must Close it.
type Diagnosis struct {
	Open   func() (*State, error)
	Logger *slog.Logger

	state   *State   // nil until State
	machine *Machine // nil until Sandboxes
}

// Close closes the machine and the state directory, if they are open.
func (d *Diagnosis) Close() (err error) {
	if d.machine != nil {
		err = d.machine.Close()
	}
	if d.state != nil {
		err = errors.Join(err, d.state.Close())
	}
	return err
}

// State opens the state directory.
func (d *Diagnosis) State() (doctor.State, error) {
	s, err := d.Open()
	if err != nil {
		return doctor.State{}, err
	}
	d.state = s
	c := s.Config
	return doctor.State{
		Dir: c.State, UserMiB: c.DiskMiB, MinFree: c.MinFreeDiskMiB,
		Script: c.ModelScript, ModelTitle: ModelTitle(c), Upstreams: len(c.Upstreams),
		CheckFree: s.Volumes.CheckFree, Agent: s.Agent, CheckModel: s.CheckModel, UpstreamFaults: s.UpstreamFaults,
		Secrets: s.OpenSecrets,
		Prompts: func() (*prompt.Set, error) { return s.OpenPrompts(nil) },
	}, nil
}

// Sandboxes opens a machine on the state directory, which must be open.
func (d *Diagnosis) Sandboxes(ctx context.Context) (doctor.Sandboxes, error) {
	s := *d.state
	s.Config.ModelScript = replay.DemoName // no check calls the model
	s.Pull = nil                           // a missing image is a finding
	bin, _ := s.Agent()                    // has a check of its own
	m, err := OpenMachine(ctx, &s, bin, d.Logger)
	if err != nil {
		return doctor.Sandboxes{}, err
	}
	d.machine = m
	found := doctor.Sandboxes{Name: m.Sandboxes(), SandboxIO: m.Prober.SandboxIO, GVisor: m.Prober.GVisor, Prove: m.Jobs.Prove}
	if s.Config.Acceptance != config.AcceptanceOff {
		found.Play = m.ProveBrowser
	}
	return found, nil
}
