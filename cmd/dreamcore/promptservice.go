package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/operate/doctor"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// openGlobal opens the global volume.
func (s state) openGlobal() (*os.Root, error) { return s.volumes.OpenVolume(volume.Global) }

// promptSet opens the prompt endpoints; log may be nil.
func (s state) promptSet(log *slog.Logger) (*prompt.Set, error) {
	return prompt.Open(prompt.Source{Open: s.openGlobal, Reserved: server.ReservedNames(), Logger: log})
}

// promptService makes the service that answers prompt endpoints with the
// machine's gateway and ledger.
func (m *machine) promptService() (*prompt.Service, error) {
	set, err := m.promptSet(m.log)
	if err != nil {
		return nil, err
	}
	return prompt.New(prompt.Config{
		Set: set, Model: m.gateway, Projects: m.volumes, Global: m.openGlobal,
		Meter:  func(user, project, job string) gateway.Meter { return m.books.Job(user, project, job) },
		Models: m.cfg.PromptModels, MaxRunning: m.cfg.MaxPrompts, Logger: m.log,
	}), nil
}

// openModel opens what a call of the model needs, without sandboxes. The
// caller must close the machine, which closes the state.
func openModel(ctx context.Context, s state, log *slog.Logger) (_ *machine, err error) {
	m := &machine{state: s, log: log}
	defer func() {
		if err != nil {
			_ = m.close(context.WithoutCancel(ctx))
		}
	}()
	if s.cfg.ModelScript == "" {
		if err = s.checkModel(); err != nil {
			return nil, err
		}
	}
	if err = m.openBooks(); err != nil {
		return nil, err
	}
	m.gateway = gateway.New(gateway.Config{Logger: log, IdleLimit: s.cfg.ModelIdle, Audit: m.audit})
	if err = m.setModel(s.cfg); err != nil {
		return nil, err
	}
	return m, nil
}

// prompts is the doctor's check of the files of prompt endpoints.
func (d *doctorMachine) prompts(context.Context) (string, error) {
	if err := d.open(); err != nil {
		return "", err
	}
	set, err := d.state.promptSet(nil)
	if err != nil {
		return "", err
	}
	names, _ := set.Names()
	problems := set.Problems()
	if len(problems) == 0 {
		return fmt.Sprintf("%d endpoints", len(names)), nil
	}
	message := fmt.Sprintf("%s: %v", problems[0].File, problems[0].Err)
	if more := len(problems) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more files)", more)
	}
	return "", &doctor.Concern{Message: message, Fix: "run: dreamcore prompts check"}
}
