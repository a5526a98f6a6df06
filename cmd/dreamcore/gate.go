package main

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gate"
)

type gateOptions struct {
	endpoint endpointOptions
	all      bool
	deep     bool
	junit    string
	timeout  time.Duration
}

func newGateCmd(a *app) *cobra.Command {
	var o gateOptions
	c := a.command("gate", func(ctx context.Context, args []string) error { return runGate(ctx, a, o, args) })
	f := c.Flags()
	o.endpoint.add(c)
	f.BoolVar(&o.all, "all", false, "all gates")
	f.BoolVar(&o.deep, "deep", false, "with --all, include the deep gates")
	f.StringVar(&o.junit, "junit", "", "write a JUnit report to this file")
	f.DurationVar(&o.timeout, "timeout", gate.DefaultTimeout, "time limit of each gate")
	a.addSettings(c, "model_script", "rootfs", "image", "runtime", "log_level")
	return c
}

func runGate(ctx context.Context, a *app, o gateOptions, names []string) error {
	gates, err := gate.Select(names, o.all, o.deep)
	if err != nil {
		return err
	}
	if o.deep && !o.all {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--deep requires --all", Hint: "run: dreamcore gate --all --deep; or name the gates"}
	}
	if o.timeout <= 0 {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--timeout must be more than 0", Hint: "use a duration like 60s"}
	}
	cfg := gate.Config{Gates: gates, Timeout: o.timeout}
	started := false
	if cfg.AllowNonGVisor, err = a.env.NonGVisorAllowed(); err == nil {
		err = a.withChecked(ctx, o, func(c *client.Client) error {
			cfg.Client, started = c, true
			if settings, err := a.config(); err == nil {
				cfg.AllowUnlimited = settings.AllowUnlimited
			}
			return reportGates(ctx, a, o, gate.Show(ctx, a.io, cfg, hintOf))
		})
	}
	if err != nil && !started { // a program that reads the reports must not take a missing one for a pass
		report := gate.NotStarted(a.redactor.Redact(o.endpoint.shown(a)), gates, redacted{err, a.redactor})
		return errors.Join(err, report.Write(a.io, o.junit))
	}
	return err
}

// reportGates writes the reports and returns the error for the exit code.
func reportGates(ctx context.Context, a *app, o gateOptions, report gate.Report) error {
	if err := report.Write(a.io, o.junit); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := report.Err(); err != nil {
		return errors.Join(errReported, err)
	}
	return nil
}

// withChecked calls do with a client of the given endpoint, or of a server that
// it starts.
func (a *app) withChecked(ctx context.Context, o gateOptions, do func(c *client.Client) error) error {
	if o.endpoint.endpoint(a) != "" {
		c, err := o.endpoint.client(a, o.timeout)
		if err != nil {
			return err
		}
		defer c.Close()
		return do(c)
	}
	return a.withState(func(s *daemon.State) (err error) {
		s.Config.ModelScript = cmp.Or(s.Config.ModelScript, replay.DemoName) // no gate calls the model
		s.Config.Listen = "127.0.0.1:0"
		a.warnUnlimited()
		p := a.people(a.io.Stderr())
		p.Info("Starting a server to check")
		srv, err := daemon.Start(ctx, s, daemon.Options{Version: version, Logger: a.logger("error"), Trial: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, srv.Close()) }()
		if srv.Root() != "" {
			p.Info("Sandboxes: " + srv.Sandboxes())
		}
		a.redactor.Add(srv.Secret())
		c, err := client.New(srv.URL(), client.Options{Secret: srv.Secret(), Timeout: o.timeout})
		if err != nil {
			return err
		}
		defer c.Close()
		return do(c)
	})
}
