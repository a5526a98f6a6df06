package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/deploy"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gate"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
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
		Short: "Install the service on this machine, under systemd",
		Long: "Installs this program as a hardened systemd service: unit, account, state directory,\n" +
			"and the identity of the secrets as a credential. Then it runs setup, starts the\n" +
			"service, waits until it is healthy, runs the gates, and tells how to point a front\n" +
			"end at it. Run again, it changes nothing that is as it should be.\n\n" +
			"Its settings are in " + deploy.ConfigFile + ", which deploy makes once and then leaves alone.",
		Example: "  dreamcore deploy --dry-run\n" +
			"  sudo dreamcore deploy --listen 0.0.0.0:8080 --anthropic-key-file FILE\n" +
			"  dreamcore deploy --root DIR         only the files, for an image",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runDeploy(c.Context(), a, o) },
	}
	f := c.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "print every file and command, change nothing")
	f.StringVar(&o.root, "root", "", "install the files below this directory and run nothing")
	f.BoolVar(&o.noStart, "no-start", false, "install and enable the service, but do not start it")
	f.StringVar(&o.claude, "claude", "", "the agent's program (default: claude in PATH, else it is installed with npm)")
	f.StringVar(&o.keyFile, "anthropic-key-file", "", "file with the key of the model API; - is standard input")
	f.BoolVarP(&o.yes, "yes", "y", false, "ask nothing")
	a.addSettings(c, listenSetting, modelScriptSetting, rootfsSetting, imageSetting, runtimeSetting)
	return c
}

// deployed is what deploy prints for programs.
type deployed struct {
	DryRun  bool           `json:"dry_run,omitempty"`
	Changed bool           `json:"changed"`
	Steps   []deploy.Step  `json:"steps"`
	Notes   []string       `json:"notes,omitempty"` // why it could not be run here
	Wiring  *deploy.Wiring `json:"wiring,omitempty"`
	Gates   *gate.Report   `json:"gates,omitempty"`
}

func runDeploy(ctx context.Context, a *app, o deployOptions) error {
	opts, err := deployPlanOptions(a, o)
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
		return obstacles[0] // the others may be gone with it
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

// deployPlanOptions finds the settings of the service: those of a
// configuration that is there, else those of the flags and the environment.
func deployPlanOptions(a *app, o deployOptions) (deploy.Options, error) {
	var opts deploy.Options
	if a.configFlag != "" {
		return opts, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "deploy does not take --config: the service reads " + deploy.ConfigFile,
			Hint: "put your settings there first; deploy leaves them alone",
		}
	}
	if _, err := a.env.NonGVisorAllowed(); err != nil { // before anything is changed
		return opts, err
	}
	root, err := absolute(o.root)
	if err != nil {
		return opts, err
	}
	exe, err := os.Executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return opts, fmt.Errorf("find our own program: %w", err)
	}
	opts = deploy.Options{
		Root: root, Exe: exe, Version: version, Credential: config.IdentityCredential,
		Claude: o.claude, KeyFile: o.keyFile, Key: a.env.APIKey, NoStart: o.noStart,
		Environ: a.environ, Stdin: a.io.In,
	}
	if o.keyFile != "" && o.keyFile != "-" {
		if opts.KeyFile, err = absolute(o.keyFile); err != nil {
			return opts, err
		}
	}
	state, err := a.deployState()
	if err != nil {
		return opts, err
	}
	file, adopt, err := deploy.ExistingConfig(root, state)
	if err != nil {
		return opts, err
	}
	if file != "" {
		return opts, a.keepSettings(&opts, file, adopt, state)
	}
	return opts, a.newSettings(&opts, state)
}

// deployState is the state directory that is asked for, else that of a
// service. A user's own is not for services, whoever runs the command.
func (a *app) deployState() (string, error) {
	state := a.stateFlag
	if state == "" {
		state = config.Lookup(a.environ)("DREAMCORE_STATE")
	}
	if state == "" {
		return "/var/lib/" + dreamcore.AppName, nil
	}
	return absolute(state)
}

// keepSettings takes the settings from a configuration that is there. Flags
// that say something else are errors: they would have no effect.
func (a *app) keepSettings(opts *deploy.Options, file string, adopt bool, state string) error {
	src := config.Sources{File: file}
	if adopt {
		src.Flags = map[string]any{"state": state}
		var err error
		if opts.Config, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("read the configuration: %w", err)
		}
	}
	cfg, err := config.Load(src)
	if err != nil {
		return err
	}
	if adopt {
		// The service finds the file elsewhere, so the file has to say where
		// the state is.
		if plain, err := config.Load(config.Sources{File: file}); err != nil || plain.State != state {
			opts.Config = append(opts.Config, fmt.Sprintf("\nstate: %q\n", state)...)
		}
	}
	have := map[string]string{"listen": cfg.Listen, "model_script": cfg.ModelScript, "rootfs": cfg.Rootfs, "image": cfg.Image, "runtime": cfg.Runtime, "state": cfg.State}
	want := map[string]any{}
	for key, v := range a.flags {
		want[key] = v
	}
	if a.stateFlag != "" {
		want["state"] = state
	}
	for key, v := range want {
		if have[key] != v {
			return &dreamcore.Error{
				Code:    dreamcore.CodeInvalid,
				Message: fmt.Sprintf("the configuration %s says %s: %q, so it cannot be %q as well", file, key, have[key], v),
				Hint:    "change it in the file and leave the flag out",
			}
		}
	}
	opts.Settings = serviceSettings(cfg)
	return nil
}

// newSettings are those of flags and environment, for a new configuration.
func (a *app) newSettings(opts *deploy.Options, state string) error {
	flags := map[string]any{"state": state}
	for k, v := range a.flags {
		flags[k] = v
	}
	cfg, err := config.Load(config.Sources{File: os.DevNull, Environ: a.environ, Flags: flags})
	if err != nil {
		return err
	}
	opts.Settings = serviceSettings(cfg)
	s := &opts.Settings
	if s.Upstream == config.DefaultUpstream {
		s.Upstream = ""
	}
	if s.Runtime == gvisor.Name { // the default, which the file need not say
		s.Runtime = ""
	}
	s.More = map[string]string{}
	chosen := false
	for _, kv := range a.environ {
		name, value, _ := strings.Cut(kv, "=")
		key, ours := strings.CutPrefix(name, "DREAMCORE_")
		key = strings.ToLower(key)
		if !ours || value == "" || strings.HasPrefix(key, "test_") {
			continue
		}
		switch key {
		case "state", "listen", "upstream", "model_script", "rootfs", "image", "runtime", "config":
		case "sandbox_uid", "sandbox_gid":
			chosen = true
		default:
			s.More[key] = value // Load has checked it
		}
	}
	_, err = os.Lstat(filepath.Join(opts.Root, state, daemon.VolumesDir))
	opts.FreeIDs = err != nil && !chosen
	return nil
}

func serviceSettings(c config.Config) deploy.Settings {
	return deploy.Settings{
		State: c.State, Listen: c.Listen, UID: c.UID, GID: c.GID, Upstream: c.Upstream,
		ModelScript: c.ModelScript, Rootfs: c.Rootfs, Image: c.Image, Runtime: c.Runtime, Grace: c.Grace,
	}
}

// confirmDeploy asks before the machine is changed. Where nothing is to be
// done there is nothing to ask.
func confirmDeploy(ctx context.Context, a *app, o deployOptions, plan *deploy.Plan) (bool, error) {
	steps, err := plan.Preview(ctx)
	if err != nil || o.yes || o.root != "" || !changes(steps) {
		return err == nil, err
	}
	p := a.io.Human()
	p.Heading("dreamcore deploy", "this changes:")
	for _, s := range steps {
		if s.Status != deploy.Unchanged {
			p.Status(term.Note, s.Name, where(*s.Item))
		}
	}
	p.Print("")
	ok, err := a.io.Confirm(ctx, "Go on?", "run: dreamcore deploy --yes (or, to see everything first: dreamcore deploy --dry-run)")
	if err == nil && !ok {
		p.Info("Nothing was changed")
	}
	return ok, err
}

func changes(steps []deploy.Step) bool {
	for _, s := range steps {
		if s.Status != deploy.Unchanged {
			return true
		}
	}
	return false
}

// where is the shortest description of an item.
func where(i deploy.Item) string {
	if len(i.Commands) > 0 && i.Path == "" {
		return strings.Join(i.Commands, "; ")
	}
	return i.Path
}

// applyDeploy runs the plan and shows each step as it is done.
func applyDeploy(ctx context.Context, a *app, plan *deploy.Plan) (deployed, error) {
	out := a.io.Human()
	if !a.io.JSON {
		out.Heading("dreamcore deploy", "")
	}
	var progress *term.Progress
	stop := func() {
		if progress != nil {
			progress.Stop()
			progress = nil
		}
	}
	defer stop()
	steps, err := plan.Run(ctx, func(name string) {
		if out.Terminal() {
			progress = out.Progress(name)
		}
	}, func(s deploy.Step) {
		stop()
		if a.io.JSON {
			return
		}
		mark := term.Done
		if s.Status == deploy.Unchanged {
			mark = term.Skipped
		}
		out.Status(mark, s.Name, string(s.Status), s.Detail)
	})
	return deployed{Changed: changes(steps), Steps: steps}, err
}

// finishInstalled says what is left to do after an installation that was not
// started.
func finishInstalled(a *app, o deployOptions, r deployed) error {
	if a.io.JSON {
		return a.io.WriteJSON(r)
	}
	p := a.io.Stdout()
	p.Print("")
	if o.root != "" {
		p.Success("The files are in " + o.root)
		p.Hint("on the machine itself, run: dreamcore deploy --anthropic-key-file FILE (it does the rest)")
		return nil
	}
	p.Success("The service is installed")
	p.Hint("run: systemctl start " + dreamcore.AppName)
	return nil
}

// finishStarted checks the service and tells how to use it.
func finishStarted(ctx context.Context, a *app, plan *deploy.Plan, r deployed) error {
	value, err := plan.InternalSecret(ctx)
	if err != nil {
		return err
	}
	a.redactor.Add(value)
	ep, err := client.ParseEndpoint(plan.Address())
	if err != nil {
		return err
	}
	c, err := client.New(client.Options{Endpoint: ep, Secret: value, Timeout: gate.DefaultTimeout, UserAgent: "dreamcore/" + version})
	if err != nil {
		return err
	}
	defer c.Close()
	report := deployGates(ctx, a, c)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // the address of this machine will do
	}
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

func deployGates(ctx context.Context, a *app, c *client.Client) gate.Report {
	gates, err := gate.Select(nil, true, false)
	if err != nil {
		return gate.Report{} // not for these arguments
	}
	cfg := gate.Config{Client: c, Gates: gates}
	cfg.AllowNonGVisor, _ = a.env.NonGVisorAllowed() // checked with the other options
	if a.io.JSON {
		return gate.Run(ctx, cfg)
	}
	a.io.Stdout().Print("")
	view := gate.NewView(a.io.Stdout(), c.Endpoint().String())
	cfg.OnStart, cfg.OnResult = view.Start, view.Result
	report := gate.Run(ctx, cfg)
	view.End(report)
	return report
}

func showWiring(p *term.Printer, w deploy.Wiring) {
	p.Print("")
	p.Success("The service runs at " + w.Endpoint)
	p.Print("")
	p.Print("To point a front end at it, set these two where the front end runs:")
	p.Print("")
	for _, line := range w.Lines {
		p.Println("  " + p.Style(term.Command, line))
	}
}

// previewDeploy prints everything that deploy would do, in full.
func previewDeploy(ctx context.Context, a *app, plan *deploy.Plan) error {
	steps, err := plan.Preview(ctx)
	if err != nil {
		return err
	}
	obstacles := plan.Obstacles()
	if a.io.JSON {
		r := deployed{DryRun: true, Changed: changes(steps), Steps: steps}
		for _, o := range obstacles {
			r.Notes = append(r.Notes, o.Error())
		}
		return a.io.WriteJSON(r)
	}
	p := a.io.Stdout()
	p.Heading("dreamcore deploy", "what it would do; nothing is changed")
	for _, s := range steps {
		showItem(p, s)
	}
	for _, o := range obstacles {
		p.Print("")
		p.Warning("It cannot be done here yet: " + o.Error())
		p.Hint(dreamcore.HintOf(o))
	}
	return nil
}

// would are the statuses of a preview.
func would(s deploy.Status) string {
	switch s {
	case deploy.Created:
		return "create"
	case deploy.Changed:
		return "change"
	case deploy.Ran:
		return "run"
	}
	return "as it should be"
}

func showItem(p *term.Printer, s deploy.Step) {
	i := s.Item
	details := []string{would(s.Status), i.Kind}
	if i.Mode != "" {
		details = append(details, i.Mode+" root:root")
	}
	if i.Source != "" {
		details = append(details, "from "+i.Source)
		if i.Kind == "link" {
			details[len(details)-1] = "to " + i.Source
		}
	}
	name := s.Name
	if i.Path != "" && !strings.Contains(name, i.Path) {
		name += " " + i.Path
	}
	mark := term.Note
	if s.Status == deploy.Unchanged {
		mark = term.Skipped
	}
	p.Status(mark, name, append(details, i.Note)...)
	for _, c := range i.Commands {
		p.Print("    $ " + c)
	}
	if i.Content != "" {
		for line := range strings.Lines(i.Content) {
			p.Print("    " + strings.TrimRight(line, "\n"))
		}
	}
}
