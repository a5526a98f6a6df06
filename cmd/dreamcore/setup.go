package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/setup"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

type setupOptions struct {
	keyFile string
	claude  string
	rotate  []string
	yes     bool
}

func newSetupCmd(a *app) *cobra.Command {
	var o setupOptions
	c := &cobra.Command{
		Use:   "setup",
		Short: "Prepare this machine: secrets, volumes, the agent",
		Long: "Creates the secrets anthropic-api-key and modal-internal-secret and the volumes\n" +
			"dreamcore-data and dreamcore-global, installs the agent, and proves that it works in\n" +
			"a sandbox. A second run changes nothing that exists.\n\n" +
			"The key of the model API comes from ANTHROPIC_API_KEY, a file, or a hidden prompt.\n" +
			"Without a key, games are made by the demo script.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runSetup(c.Context(), a, o) },
	}
	c.Flags().StringVar(&o.keyFile, "anthropic-key-file", "", "file with the key of the model API; - is standard input")
	c.Flags().StringVar(&o.claude, "claude", "", "the agent's program (default: claude in PATH, else it is installed with npm)")
	c.Flags().StringArrayVar(&o.rotate, "rotate", nil, "replace a secret: anthropic-api-key or modal-internal-secret")
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	a.addSettings(c, "rootfs", "image", "runtime", "log_level")
	return c
}

func runSetup(ctx context.Context, a *app, o setupOptions) error {
	s, err := a.open()
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.CheckDisk(); err != nil {
		return err
	}
	out := a.io.Human()
	if !a.io.JSON {
		out.Heading("dreamcore setup", s.Config.State)
	}
	a.warnUnlimited()
	progress := out.Progress("Checking")
	defer progress.Stop()
	result, err := setup.Run(ctx, setup.Options{
		State: s.Config.State, SecretsDir: s.Path(daemon.SecretsDir), OpenSecrets: s.CreateSecrets, Engine: daemon.EngineTitle(s.Config.Runtime),
		AgentDir: s.Path(daemon.AgentDir), Claude: o.claude, Volumes: s.Volumes, Rotate: o.rotate,
		Keyless: len(s.Config.Upstreams) > 0,
		Key: func(ctx context.Context) (string, string, error) {
			progress.Stop() // the prompt needs the line
			key, source, err := modelKey(ctx, a, o)
			a.redactor.Add(key)
			return key, source, err
		},
		Prove: func(ctx context.Context, bin agent.Binary) (string, error) { return prove(ctx, a, bin) },
		Begin: func(doing string) {
			progress.Stop()
			progress = out.Progress(doing)
		},
		Done: func(step setup.Step) {
			progress.Stop()
			if mark := term.Done; !a.io.JSON {
				if step.Status == setup.Missing {
					mark = term.Warned
				}
				out.Status(mark, step.Name, string(step.Status), step.Detail)
			}
		},
	})
	progress.Stop()
	if err != nil {
		return err
	}
	if err := s.AuditRotation(o.rotate); err != nil {
		return err
	}
	return finishSetup(a, result)
}

// finishSetup shows the result and how to continue.
func finishSetup(a *app, result setup.Result) error {
	out := a.io.Human()
	if a.io.JSON {
		return a.io.WriteJSON(result)
	}
	if result.InternalSecret != "" {
		out.Print("")
		out.Pairs(term.Pair{Key: secret.InternalKey, Value: result.InternalSecret, Tone: term.Strong})
		out.Info("This is shown once; later: dreamcore secret show " + secret.InternalSecret)
	}
	out.Print("")
	out.Success("This machine is ready")
	out.Hint("run: dreamcore generate \"a snake game with ice physics\"")
	return nil
}

// prove runs the agent once in a sandbox with a model script.
func prove(ctx context.Context, a *app, bin agent.Binary) (version string, err error) {
	err = a.withState(func(s *daemon.State) (err error) {
		s.Config.ModelScript = replay.DemoName // the proof has its own script and needs no key
		m, err := daemon.OpenMachine(ctx, s, bin, a.logger("error"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Close()) }()
		version, err = m.Jobs.Prove(ctx)
		return err
	})
	return version, err
}

// modelKey returns the key of the model API and its source. There is no flag for
// the key itself, which would show it in the list of processes.
func modelKey(ctx context.Context, a *app, o setupOptions) (key, source string, err error) {
	switch {
	case o.keyFile == "-":
		key, err = setup.ReadKey(a.io.Input(ctx))
		return key, "standard input", err
	case o.keyFile != "":
		key, err = setup.ReadKeyFile(o.keyFile)
		return key, o.keyFile, err
	case a.env.APIKey != "":
		return a.env.APIKey, "ANTHROPIC_API_KEY", nil
	case o.yes || !a.io.Interactive() || a.io.JSON:
		return "", "", nil
	}
	ok, err := a.io.Confirm(ctx, "Is there a key for the model API? Without one, games are made by the demo script", "--yes")
	if err != nil || !ok {
		return "", "", err
	}
	key, err = a.io.ReadSecret(ctx, "Anthropic API key", "--anthropic-key-file FILE")
	return key, "the prompt", err
}
