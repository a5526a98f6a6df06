package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/doctor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

func newDoctorCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether this machine can make games",
		Long: "Checks the kernel, control groups, namespaces, disk, clock, port, secrets, a real\n" +
			"sandbox, and the agent in one. Each finding names its fix. The exit code is 1 if a\n" +
			"check has failed; a warning does not count. No image is pulled, no upstream called.",
		Example: "  sudo dreamcore doctor\n  sudo dreamcore doctor --image debian:12",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), a) },
	}
	a.addSettings(c, "listen", "model_script", "rootfs", "image", "runtime")
	return c
}

func runDoctor(ctx context.Context, a *app) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	d := &diagnosed{app: a}
	defer d.close()
	checks := append(doctor.Machine(cfg.State, cfg.Listen, engine.Unlimited()), doctor.Service(d.open, d.start)...)
	p := a.io.Human()
	if a.io.JSON {
		report := doctor.Run(ctx, checks, doctor.Hooks{Hint: hintOf})
		return errors.Join(a.io.WriteJSON(report), diagnosis(ctx, report))
	}
	p.Heading("dreamcore doctor", cfg.State)
	progress := p.Progress("Checking")
	defer progress.Stop()
	hooks := doctor.Hooks{Finish: func(f doctor.Finding) { showFinding(p, f) }, Hint: hintOf}
	if p.Terminal() { // in a pipe the findings suffice
		hooks.Begin = progress.Update
	}
	report := doctor.Run(ctx, checks, hooks)
	progress.Stop()
	if ctx.Err() == nil && report.Healthy {
		p.Print("")
		p.Success("This machine is ready")
	}
	return diagnosis(ctx, report)
}

// diagnosis returns the error for the exit code.
func diagnosis(ctx context.Context, r doctor.Report) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !r.Healthy:
		return errors.Join(errReported, errors.New("a check has failed"))
	}
	return nil
}

func showFinding(p *term.Printer, f doctor.Finding) {
	mark := map[doctor.Status]term.Mark{
		doctor.OK: term.Done, doctor.Warn: term.Warned, doctor.Fail: term.Failed, doctor.Skipped: term.Skipped,
	}[f.Status]
	p.Status(mark, f.Name, f.Detail)
	if f.Fix != "" {
		p.Hint(f.Fix)
	}
}

// diagnosed is the state directory and the machine that the checks examine.
type diagnosed struct {
	app     *app
	state   *daemon.State   // nil until open
	machine *daemon.Machine // nil until start
}

func (d *diagnosed) close() {
	var err error
	if d.machine != nil {
		err = d.machine.Close()
	}
	if d.state != nil {
		err = errors.Join(err, d.state.Close())
	}
	if err != nil {
		d.app.io.RenderError(redacted{err, d.app.redactor})
	}
}

func (d *diagnosed) open() (doctor.State, error) {
	s, err := d.app.open()
	if err != nil {
		return doctor.State{}, err
	}
	d.state = s
	c := s.Config
	return doctor.State{
		Dir: c.State, UserMiB: c.DiskMiB, MinFree: c.MinFreeDiskMiB,
		Script: c.ModelScript, ModelTitle: daemon.ModelTitle(c), Upstreams: len(c.Upstreams),
		CheckFree: s.Volumes.CheckFree, Agent: s.Agent, CheckModel: s.CheckModel, UpstreamFaults: s.UpstreamFaults,
		Secrets: s.OpenSecrets,
		Prompts: func() (*prompt.Set, error) { return s.OpenPrompts(nil) },
	}, nil
}

func (d *diagnosed) start(ctx context.Context) (doctor.Sandboxes, error) {
	s := *d.state
	s.Config.ModelScript = replay.DemoName // no check calls the model
	s.Pull = nil                           // a missing image is a finding
	bin, _ := s.Agent()                    // has a check of its own
	m, err := daemon.OpenMachine(ctx, &s, bin, d.app.logger("error"))
	if err != nil {
		return doctor.Sandboxes{}, err
	}
	d.machine = m
	return doctor.Sandboxes{Name: m.Sandboxes(), SandboxIO: m.Prober.SandboxIO, GVisor: m.Prober.GVisor, Prove: m.Jobs.Prove}, nil
}
