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
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

type deployOptions struct {
	root    string
	claude  string
	keyFile string
	dryRun  bool
	noStart bool
	yes     bool
}

func newDeployCmd(a *app) *cobra.Command {
	var o deployOptions
	c := &cobra.Command{
		Use:   "deploy",
		Short: "Install the service on this machine with systemd",
		Long: "Installs this program as a hardened systemd service: unit, account, state directory,\n" +
			"and the identity of the secrets as a credential. Then it runs setup, starts the\n" +
			"service, waits until it is healthy, runs the gates, and prints how to connect a front\n" +
			"end. A second run changes nothing that is up to date.\n\n" +
			"The settings are in " + deploy.ConfigFile + ", which deploy creates but never changes.",
		Example: "  dreamcore deploy --dry-run\n" +
			"  sudo dreamcore deploy --listen 0.0.0.0:8080 --anthropic-key-file FILE\n" +
			"  dreamcore deploy --root DIR         only files, for an image",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runDeploy(c.Context(), a, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "print every file and command without changing anything")
	f.StringVar(&o.root, "root", "", "install the files below this directory, for an image, and run no command")
	f.BoolVar(&o.noStart, "no-start", false, "install and enable the service, but do not start it")
	f.StringVar(&o.claude, "claude", "", "the agent's program (default: claude in PATH, else it is installed with npm)")
	f.StringVar(&o.keyFile, "anthropic-key-file", "", "file with the key of the model API; - is standard input")
	f.BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	a.addSettings(c, "listen", "model_script", "rootfs", "image", "runtime")
	return c
}

// deployed is the JSON form of the result.
type deployed struct {
	DryRun  bool           `json:"dry_run,omitempty"`
	Changed bool           `json:"changed"`
	Steps   []deploy.Step  `json:"steps"`
	Notes   []string       `json:"notes,omitempty"` // reasons why it cannot run here
	Wiring  *deploy.Wiring `json:"wiring,omitempty"`
	Gates   *gate.Report   `json:"gates,omitempty"`
}

func runDeploy(ctx context.Context, a *app, o deployOptions) error {
	req, err := deployRequest(a, o)
	if err != nil {
		return err
	}
	opts, err := req.Options()
	if err != nil {
		return err
	}
	plan, err := deploy.New(ctx, opts)
	if err != nil {
		return err
	}
	if o.dryRun {
		return previewDeploy(ctx, a, plan)
	}
	if obstacles := plan.Obstacles(); len(obstacles) > 0 {
		return obstacles[0] // fixing it may fix the others
	}
	if ok, err := confirmDeploy(ctx, a, o, plan); err != nil || !ok {
		return err
	}
	result, err := applyDeploy(ctx, a, plan)
	if err != nil {
		return err
	}
	if o.root != "" || o.noStart {
		return finishInstalled(a, o, result)
	}
	return finishStarted(ctx, a, plan, result)
}

// deployRequest returns what the operator asks for.
func deployRequest(a *app, o deployOptions) (deploy.Request, error) {
	if a.configFlag != "" {
		return deploy.Request{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "deploy does not take --config: the service reads " + deploy.ConfigFile,
			Hint: "put your settings there first; deploy does not change them",
		}
	}
	_, err := a.env.NonGVisorAllowed() // checked before anything is changed
	return deploy.Request{
		Root: o.root, State: cmp.Or(a.stateFlag, config.Lookup(a.environ)("DREAMCORE_STATE")), StateGiven: a.stateFlag != "",
		Flags: a.flags, Environ: a.environ, Version: version, Credential: config.IdentityCredential,
		Claude: o.claude, KeyFile: o.keyFile, Key: a.env.APIKey, NoStart: o.noStart, Stdin: a.io.In, Load: serviceSettings,
	}, err
}

func serviceSettings(file string, environ []string, flags map[string]any) (deploy.Settings, error) {
	c, err := config.Load(config.Sources{File: file, Environ: environ, Flags: flags})
	return deploy.Settings{
		State: c.State, Listen: c.Listen, UID: c.UID, GID: c.GID, Upstream: c.Upstream,
		ModelScript: c.ModelScript, Rootfs: c.Rootfs, Image: c.Image, Runtime: c.Runtime, Grace: c.Grace,
	}, err
}

// confirmDeploy asks before the machine is changed, unless there is nothing to
// change.
func confirmDeploy(ctx context.Context, a *app, o deployOptions, plan *deploy.Plan) (bool, error) {
	steps, err := plan.Preview(ctx)
	if err != nil || o.yes || o.root != "" || !deploy.HasChanges(steps) {
		return err == nil, err
	}
	p := a.io.Human()
	p.Heading("dreamcore deploy", "changes:")
	for _, s := range steps {
		if s.Status != deploy.Unchanged {
			s.ShowSummary(p)
		}
	}
	p.Print("")
	ok, err := a.io.Confirm(ctx, "Continue?", "run: dreamcore deploy --yes (or, to see everything first: dreamcore deploy --dry-run)")
	if err == nil && !ok {
		p.Info("Nothing was changed")
	}
	return ok, err
}

// applyDeploy runs the plan and shows each step.
func applyDeploy(ctx context.Context, a *app, plan *deploy.Plan) (deployed, error) {
	out := a.io.Human()
	if !a.io.JSON {
		out.Heading("dreamcore deploy", "")
	}
	stop := func() {}
	defer func() { stop() }()
	steps, err := plan.Run(ctx, func(name string) {
		if out.Terminal() {
			stop = out.Progress(name).Stop
		}
	}, func(s deploy.Step) {
		stop()
		if !a.io.JSON {
			s.ShowResult(out)
		}
	})
	return deployed{Changed: deploy.HasChanges(steps), Steps: steps}, err
}

// finishInstalled shows how to continue after an installation that did not start
// the service.
func finishInstalled(a *app, o deployOptions, r deployed) error {
	if a.io.JSON {
		return a.io.WriteJSON(r)
	}
	p := a.io.Stdout()
	p.Print("")
	if o.root != "" {
		p.Success("The files are in " + o.root)
		p.Hint("to complete it, run on the machine itself: dreamcore deploy --anthropic-key-file FILE")
		return nil
	}
	p.Success("The service is installed")
	p.Hint("run: systemctl start " + dreamcore.AppName)
	return nil
}

// finishStarted checks the service and shows how to use it.
func finishStarted(ctx context.Context, a *app, plan *deploy.Plan, r deployed) error {
	value, err := plan.InternalSecret(ctx)
	if err != nil {
		return err
	}
	a.redactor.Add(value)
	c, err := client.Connect(plan.Address(), client.Options{Secret: value, Timeout: gate.DefaultTimeout, UserAgent: "dreamcore/" + version})
	if err != nil {
		return err
	}
	defer c.Close()
	if !a.io.JSON {
		a.io.Stdout().Print("")
	}
	cfg := gate.Config{Client: c}
	if cfg.Gates, err = gate.Select(nil, true, false); err != nil {
		return err
	}
	if cfg.AllowNonGVisor, err = a.env.NonGVisorAllowed(); err != nil {
		return err
	}
	report := runGates(ctx, a, cfg)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	host, _ := os.Hostname() // if unknown, the wiring has the address of loopback
	wiring := plan.Wire(host)
	r.Gates, r.Wiring = &report, &wiring
	if a.io.JSON {
		err = a.io.WriteJSON(r)
	} else if report.Passed {
		showWiring(a.io.Stdout(), wiring)
	}
	if failed := report.Err(); failed != nil {
		return errors.Join(errReported, failed)
	}
	return err
}

func showWiring(p *term.Printer, w deploy.Wiring) {
	p.Print("")
	p.Success("The service runs at " + w.Endpoint)
	p.Print("")
	p.Print("To connect a front end, set these variables in its environment:")
	p.Print("")
	for _, line := range w.Lines {
		p.Println("  " + p.Style(term.Command, line))
	}
}

// previewDeploy prints every file and command of the plan.
func previewDeploy(ctx context.Context, a *app, plan *deploy.Plan) error {
	steps, err := plan.Preview(ctx)
	if err != nil {
		return err
	}
	obstacles := plan.Obstacles()
	if a.io.JSON {
		r := deployed{DryRun: true, Changed: deploy.HasChanges(steps), Steps: steps}
		for _, o := range obstacles {
			r.Notes = append(r.Notes, o.Error())
		}
		return a.io.WriteJSON(r)
	}
	p := a.io.Stdout()
	p.Heading("dreamcore deploy", "dry run: nothing is changed")
	for _, s := range steps {
		s.ShowItem(p)
	}
	for _, o := range obstacles {
		p.Print("")
		p.Warning("It cannot run here yet: " + o.Error())
		p.Hint(hintOf(o))
	}
	return nil
}
