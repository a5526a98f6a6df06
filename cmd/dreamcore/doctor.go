package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/operate/doctor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
)

func newDoctorCmd(a *app) *cobra.Command {
	c := a.command("doctor", func(ctx context.Context, _ []string) error { return runDoctor(ctx, a) })
	a.addSettings(c, "listen", "model_script", "rootfs", "image", "runtime")
	return c
}

func runDoctor(ctx context.Context, a *app) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	d := daemon.Diagnosis{Open: a.open, Logger: a.logger("error")}
	defer func() {
		if err := d.Close(); err != nil {
			a.io.RenderError(redacted{err, a.redactor})
		}
	}()
	checks := append(doctor.Machine(doctor.Needs{State: cfg.State, Listen: cfg.Listen, Sandboxes: cfg.MaxSandboxes, Unlimited: engine.Unlimited()}), doctor.Service(d.State, d.Sandboxes)...)
	report, err := doctor.Show(ctx, a.io, cfg.State, checks, hintOf)
	switch {
	case ctx.Err() != nil:
		return errors.Join(err, context.Cause(ctx))
	case !report.Healthy:
		return errors.Join(err, errReported, errors.New("a check has failed"))
	}
	return err
}
