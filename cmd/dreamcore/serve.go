package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

type serveOptions struct{ dev, allowUnlimited bool }

func newServeCmd(a *app) *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the HTTP service",
		Long: "Serves the HTTP contract until SIGINT or SIGTERM, then lets running generations end.\n" +
			"It refuses to start without what setup creates, and without a sandbox that works.\n\n" +
			"With --dev it applies changes while it runs: of skills, of the model script, and of the\n" +
			"settings for the model, the agent, the size and number of sandboxes, budgets and prices.\n" +
			"The other settings need a restart; the log names those that have changed.",
		Example: "  sudo dreamcore serve --listen 0.0.0.0:8080\n" +
			"  sudo dreamcore serve --model-script demo --dev\n" +
			"  sudo dreamcore serve --allow-host api.example.com --inject api.example.com=SECRET:Authorization:Bearer",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("allow-unlimited") {
				a.flags["allow_unlimited"] = o.allowUnlimited
			}
			return runServe(c.Context(), a, o)
		},
	}
	c.Flags().BoolVar(&o.dev, "dev", false, "apply changes of the configuration, the model script and skills while running")
	c.Flags().BoolVar(&o.allowUnlimited, "allow-unlimited", false, "serve without root, which cannot limit the memory, CPU, processes and disk of sandboxes")
	a.addSettings(c, "listen", "model_script", "rootfs", "image", "runtime", "tools", "model", "language", "log_level")
	a.addSettings(c, egressSettings...)
	return c
}

func runServe(ctx context.Context, a *app, o serveOptions) (err error) {
	guard, err := a.startGuard()
	if err != nil {
		return err
	}
	defer guard.Close()
	s, err := a.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := a.checkUnlimited(s.Config.AllowUnlimited); err != nil {
		return err
	}
	opts := daemon.Options{Version: version, Logger: a.logger(s.Config.LogLevel)}
	if o.dev {
		opts.Reload, opts.ConfigFile = a.config, a.configFile(s.Config)
	}
	srv, err := daemon.Start(ctx, s, opts)
	if err != nil {
		return err
	}
	a.showService(s.Config, srv)
	select {
	case <-ctx.Done():
		a.io.Stderr().Info("Stopping", fmt.Sprintf("running generations have %v to end", s.Config.Grace))
	case <-srv.Failed():
	}
	if err := errors.Join(srv.Close(), s.Close()); err != nil {
		// Reported here, since run reports only the signal that began the stop.
		a.io.RenderError(redacted{err, a.redactor})
		return errors.Join(errReported, err)
	}
	return nil
}

// startGuard keeps secrets out of the output of a service that crashes. All
// other output bypasses the guard: it is redacted already, and may be half a
// line.
func (a *app) startGuard() (*crash.Guard, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	guard, err := crash.Start(exe, a.redactor)
	if err != nil {
		return nil, err
	}
	a.io.MoveErr(guard.Stderr)
	return guard, nil
}

// showService prints what a service that has started offers.
func (a *app) showService(c config.Config, srv *daemon.Service) {
	p := a.io.Stderr()
	p.Success("Serving on "+srv.URL(), "model: "+daemon.ModelTitle(c), "sandboxes: "+srv.Sandboxes())
	showEgress(p, c)
	if at := srv.PreviewsAt(); at != "" {
		p.Info("Games are shown at "+at, "links: dreamcore preview PROJECT")
	}
	if c.ModelScript != "" {
		p.Warning("A script replaces the model: every prompt gets the same games")
	}
	p.Hint("run: dreamcore gate --all --endpoint " + srv.URL())
}

// warnUnlimited warns of the limits that cannot be enforced, once for each
// command.
func (a *app) warnUnlimited() {
	if what := daemon.Unlimited(); what != "" {
		a.io.Stderr().Warning(strings.ToUpper(what[:1]) + what[1:])
	}
}

// checkUnlimited refuses to serve the programs of strangers without limits,
// unless the operator has allowed it.
func (a *app) checkUnlimited(allowed bool) error {
	what := daemon.Unlimited()
	if what == "" {
		return nil
	}
	if !allowed {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: what + "; one sandbox can take the whole machine",
			Hint: "run the command with sudo, or accept it with serve --allow-unlimited (allow_unlimited: true in the configuration)",
		}
	}
	a.warnUnlimited()
	return nil
}
