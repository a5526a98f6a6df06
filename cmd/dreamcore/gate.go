package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
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
	c := &cobra.Command{
		Use:   "gate [NAME|NUMBER ...]",
		Short: "Check a service: sandboxes, isolation, streaming, volumes, auth",
		Long: "Checks any service of the contract by its behavior. Without --endpoint or\n" +
			"MODAL_ENDPOINT it checks a server that it starts itself.\n\n" +
			"The gates, and when each passes:\n" + gate.Describe(false) +
			"\nDeep gates, with --all --deep or by name. The service attacks itself in sandboxes of\n" +
			"temporary users and reports the results. They take a minute or more and load its\n" +
			"machine:\n" + gate.Describe(true) +
			"\nALLOW_NON_GVISOR=true lets the isolation gate pass without gVisor, and\n" +
			"DREAMCORE_ALLOW_UNLIMITED=true the disk-fill gate without a bound; the report says so.",
		Example: "  sudo dreamcore gate --all\n" +
			"  dreamcore gate --all --deep --endpoint http://host:8080 --secret-file FILE --junit gates.xml\n" +
			"  dreamcore gate isolation 3 --endpoint http://host:8080 --secret-file FILE",
		RunE: func(c *cobra.Command, args []string) error { return runGate(c.Context(), a, o, args) },
	}
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
			return reportGates(ctx, a, o, runGates(ctx, a, cfg))
		})
	}
	if err != nil && !started {
		return notStarted(a, o, gates, err)
	}
	return err
}

// reportGates writes the reports and returns the error for the exit code.
func reportGates(ctx context.Context, a *app, o gateOptions, report gate.Report) error {
	if a.io.JSON {
		if err := report.WriteJSON(a.io.Out); err != nil {
			return err
		}
	}
	if o.junit != "" {
		if err := writeJUnit(o.junit, report); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := report.Err(); err != nil {
		return errors.Join(errReported, err)
	}
	return nil
}

// runGates runs gates and shows them, unless the report is printed as JSON.
func runGates(ctx context.Context, a *app, cfg gate.Config) gate.Report {
	if a.io.JSON {
		return gate.Run(ctx, cfg)
	}
	view := gate.NewView(a.io.Stdout(), cfg.Client.Endpoint().String())
	cfg.OnStart, cfg.OnResult = view.Start, view.Result
	report := gate.Run(ctx, cfg)
	view.End(report, hintOf(report.Err()))
	return report
}

// notStarted writes every requested report for gates that could not be tried, and
// returns the cause: a program that reads the reports must not take a missing one
// for a pass.
func notStarted(a *app, o gateOptions, gates []gate.Gate, cause error) error {
	report := gate.NotStarted(a.redactor.Redact(o.endpoint.shown(a)), gates, redacted{cause, a.redactor})
	err := cause
	if a.io.JSON {
		err = errors.Join(err, report.WriteJSON(a.io.Out))
	}
	if o.junit != "" {
		err = errors.Join(err, writeJUnit(o.junit, report))
	}
	return err
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
		if !a.io.JSON {
			a.io.Stderr().Info("Starting a server to check")
		}
		srv, err := daemon.Start(ctx, s, daemon.Options{Version: version, Logger: a.logger("error"), Trial: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, srv.Close()) }()
		if srv.Root() != "" && !a.io.JSON {
			a.io.Stderr().Info("Sandboxes: " + srv.Sandboxes())
		}
		a.redactor.Add(srv.Secret())
		c, err := client.Connect(srv.URL(), client.Options{Secret: srv.Secret(), Timeout: o.timeout})
		if err != nil {
			return err
		}
		defer c.Close()
		return do(c)
	})
}

func writeJUnit(name string, report gate.Report) error {
	f, err := os.Create(filepath.Clean(name))
	if err != nil {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the JUnit report cannot be written", Err: err, Hint: "name a file in a directory that exists with --junit FILE"}
	}
	return errors.Join(report.WriteJUnit(f), f.Close())
}
