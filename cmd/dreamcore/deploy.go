package main

import (
	"cmp"
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/deploy"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gate"
	"github.com/notef-neighbor/dreamcore/pkg/operate/kubernetes"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

type deployOptions struct {
	deploy.Request
	cluster     kubernetes.Request
	dryRun, yes bool
}

func newDeployCmd(a *app) *cobra.Command {
	var o deployOptions
	c := a.command("deploy", func(ctx context.Context, _ []string) error { return runDeploy(ctx, a, o) })
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "print every file and command without changing anything")
	f.StringVar(&o.Root, "root", "", "install the files below this directory, for an image, and run no command")
	f.BoolVar(&o.NoStart, "no-start", false, "install and enable the service, but do not start it")
	f.StringVar(&o.Claude, "claude", "", "the agent's program (default: claude in PATH, else it is installed with npm)")
	f.StringVar(&o.KeyFile, "anthropic-key-file", "", "file with the key of the model API; - is standard input")
	o.cluster.AddFlags(f)
	yesFlag(c, &o.yes)
	a.addSettings(c, "listen", "model_script", "rootfs", "image", "runtime")
	return c
}

func runDeploy(ctx context.Context, a *app, o deployOptions) error {
	if done, err := o.cluster.Run(a.io); done {
		return err
	}
	opts, err := resolveDeploy(a, o.Request)
	if err != nil {
		return err
	}
	plan, err := deploy.New(ctx, opts)
	if err != nil {
		return err
	}
	obstacles := plan.Obstacles()
	if !o.dryRun && len(obstacles) > 0 {
		return obstacles[0] // fixing it may fix the others
	}
	steps, err := plan.Preview(ctx)
	if err != nil {
		return err
	}
	if o.dryRun {
		r := deploy.NewPreview(steps, obstacles)
		return a.show(r, func(p *term.Printer) { r.ShowPreview(p, obstacles, hintOf) })
	}
	if !o.yes && o.Root == "" && deploy.HasChanges(steps) {
		if ok, err := deploy.Confirm(ctx, a.io, steps); err != nil || !ok {
			return err
		}
	}
	result, err := applyDeploy(ctx, a, plan)
	if err != nil {
		return err
	}
	if o.Root != "" || o.NoStart {
		return a.show(result, func(p *term.Printer) { deploy.ShowInstalled(p, o.Root) })
	}
	return finishStarted(ctx, a, plan, result)
}

// resolveDeploy resolves a request with the environment and the flags of all commands.
func resolveDeploy(a *app, req deploy.Request) (o deploy.Options, err error) {
	if a.configFlag != "" {
		return o, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "deploy does not take --config: the service reads " + deploy.ConfigFile,
			Hint: "put your settings there first; deploy does not change them",
		}
	}
	if _, err := a.env.NonGVisorAllowed(); err != nil { // checked before anything is changed
		return o, err
	}
	req.State, req.StateGiven = cmp.Or(a.stateFlag, config.Lookup(a.environ)("DREAMCORE_STATE")), a.stateFlag != ""
	req.Flags, req.Environ, req.Load = a.flags, a.environ, serviceSettings
	req.Version, req.Credential, req.Key, req.Stdin = version, config.IdentityCredential, a.env.APIKey, a.io.In
	return req.Resolve()
}

func serviceSettings(file string, environ []string, flags map[string]any) (deploy.Settings, error) {
	c, err := config.Load(config.Sources{File: file, Environ: environ, Flags: flags})
	if c.PreviewDomain == config.PreviewOff {
		c.PreviewListen = "" // the service does not listen there
	}
	return deploy.Settings{
		State: c.State, Listen: c.Listen, PreviewListen: c.PreviewListen, UID: c.UID, GID: c.GID, Upstream: c.Upstream,
		ModelScript: c.ModelScript, Rootfs: c.Rootfs, Image: c.Image, Runtime: c.Runtime, Grace: c.Grace,
	}, err
}

func applyDeploy(ctx context.Context, a *app, plan *deploy.Plan) (deploy.Result, error) {
	out, results := a.io.Human(), a.people(a.io.Stdout())
	results.Heading("dreamcore deploy", "")
	stop := func() {}
	defer func() { stop() }()
	steps, err := plan.Run(ctx, func(name string) {
		if out.Terminal() {
			stop = out.Progress(name).Stop
		}
	}, func(s deploy.Step) {
		stop()
		s.ShowResult(results)
	})
	return deploy.Result{Changed: deploy.HasChanges(steps), Steps: steps}, err
}

// finishStarted checks the service that was started, and shows how to use it.
func finishStarted(ctx context.Context, a *app, plan *deploy.Plan, r deploy.Result) error {
	value, err := plan.InternalSecret(ctx)
	if err != nil {
		return err
	}
	a.redactor.Add(value)
	c, err := client.New(plan.Address(), client.Options{Secret: value, Timeout: gate.DefaultTimeout, UserAgent: "dreamcore/" + version})
	if err != nil {
		return err
	}
	defer c.Close()
	a.people(a.io.Stdout()).Print("")
	cfg := gate.Config{Client: c}
	if cfg.Gates, err = gate.Select(nil, true, false); err != nil {
		return err
	}
	if cfg.AllowNonGVisor, err = a.env.NonGVisorAllowed(); err != nil {
		return err
	}
	report := gate.Show(ctx, a.io, cfg, hintOf)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	host, _ := os.Hostname() // if unknown, the wiring has the address of loopback
	wiring := plan.Wire(host)
	r.Gates, r.Wiring = &report, &wiring
	err = a.show(r, func(p *term.Printer) {
		if report.Passed {
			wiring.Show(p)
		}
	})
	if failed := report.Err(); failed != nil {
		return errors.Join(errReported, failed)
	}
	return err
}
