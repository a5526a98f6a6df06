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
)

type serveOptions struct{ dev, allowUnlimited bool }

func newServeCmd(a *app) *cobra.Command {
	var o serveOptions
	var c *cobra.Command
	c = a.command("serve", func(ctx context.Context, _ []string) error {
		if c.Flags().Changed("allow-unlimited") {
			a.flags["allow_unlimited"] = o.allowUnlimited
		}
		return runServe(ctx, a, o)
	})
	c.Flags().BoolVar(&o.dev, "dev", false, "apply changes of the configuration, the model script and skills while running")
	c.Flags().BoolVar(&o.allowUnlimited, "allow-unlimited", false, "serve without root, which cannot limit the CPU, processes and disk of sandboxes, and measures their memory")
	a.addSettings(c, "listen", "model_script", "rootfs", "image", "runtime", "tools", "model", "acceptance", "language", "log_level")
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
	if err := daemon.CheckUnlimited(s.Config.AllowUnlimited); err != nil {
		return err
	}
	a.warnUnlimited()
	opts := daemon.Options{Version: version, Logger: a.loggerIn(s.Config.LogLevel, s.Config.LogFormat), Inherited: a.inherited}
	opts.Reload, opts.Watch, opts.ConfigFile = a.config, o.dev, a.configFile(s.Config)
	opts.Reloads = a.signals.Reloads() // before the start, which takes a while
	srv, err := daemon.Start(ctx, s, opts)
	if err != nil {
		return err
	}
	if err := a.showService(s.Config, srv); err != nil {
		return errors.Join(err, srv.Close())
	}
	stop := func() error { return errors.Join(srv.Close(), s.Close()) }
	return a.serveUntil(ctx, srv.Failed(), fmt.Sprintf("running generations have %v to end, new ones are refused", s.Config.Grace), stop)
}

// serveUntil lets a service run until ctx ends or it fails, and stops it.
func (a *app) serveUntil(ctx context.Context, failed <-chan struct{}, stopping string, stop func() error) error {
	select {
	case <-ctx.Done():
		a.io.Stderr().Info("Stopping", stopping)
	case <-failed:
	}
	err := stop()
	if err != nil { // reported here, since run reports only the signal that began the stop
		a.io.RenderError(redacted{err, a.redactor})
		err = errors.Join(errReported, err)
	}
	return err
}

// startGuard keeps secrets out of the output of a service that crashes. All other
// output bypasses the guard: it is redacted already, and may be half a line.
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

// showService shows where the service is: to programs as one object on standard output.
func (a *app) showService(c config.Config, srv *daemon.Service) error {
	if a.io.JSON {
		return a.io.WriteJSON(map[string]string{"url": srv.URL(), "previews": srv.PreviewsAt(), "model": daemon.ModelTitle(c), "sandboxes": srv.Sandboxes()})
	}
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
	return nil
}

// warnUnlimited warns of the limits that cannot be enforced, once for each command.
func (a *app) warnUnlimited() {
	if what := daemon.Unlimited(); what != "" {
		a.io.Stderr().Warning(strings.ToUpper(what[:1]) + what[1:])
	}
}
