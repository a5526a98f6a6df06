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
	browser bool
}

func newSetupCmd(a *app) *cobra.Command {
	var o setupOptions
	c := a.command("setup", func(ctx context.Context, _ []string) error { return runSetup(ctx, a, o) })
	c.Flags().StringVar(&o.keyFile, "anthropic-key-file", "", "file with the key of the model API; - is standard input")
	c.Flags().StringVar(&o.claude, "claude", "", "the agent's program (default: claude in PATH, else it is installed with npm)")
	c.Flags().StringArrayVar(&o.rotate, "rotate", nil, "replace a secret: anthropic-api-key or modal-internal-secret")
	yesFlag(c, &o.yes)
	c.Flags().BoolVar(&o.browser, "acceptance", false, "install a browser that plays games before they are done (Debian's chromium-headless-shell)")
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
	out, steps := a.io.Human(), a.people(a.io.Stdout())
	steps.Heading("dreamcore setup", s.Config.State)
	a.warnUnlimited()
	progress, doing := out.Transfer("Checking"), ""
	defer progress.Stop()
	result, err := setup.Run(ctx, setup.Options{
		State: s.Config.State, OpenSecrets: s.CreateSecrets, Engine: daemon.EngineTitle(s.Config.Runtime),
		AgentDir: s.Path(daemon.AgentDir), Claude: o.claude, Volumes: s.Volumes, Rotate: o.rotate,
		Keyless: len(s.Config.Upstreams) > 0,
		Key: func(ctx context.Context) (string, string, error) {
			progress.Stop() // the prompt needs the line
			key, source, err := setup.AskKey(ctx, a.io, o.keyFile, a.env.APIKey, o.yes)
			a.redactor.Add(key)
			return key, source, err
		},
		Prove: func(ctx context.Context, bin agent.Binary) (string, error) {
			return a.prove(ctx, func(*daemon.State) agent.Binary { return bin }, func(m *daemon.Machine) (string, error) { return m.Jobs.Prove(ctx) })
		},
		Browser: &setup.Browser{
			Find: s.Browser, Install: o.browser, Elsewhere: s.OtherRoot(),
			Prove: func(ctx context.Context) (string, error) {
				return a.prove(ctx, recordedAgent, func(m *daemon.Machine) (string, error) { return m.ProveBrowser(ctx) })
			},
			Update: func(doing string) { progress.Update(doing) },
		},
		Begin: func(next string) {
			progress.Stop()
			progress, doing = out.Transfer(next), next
		},
		Installed: func(bytes int64) { progress.Show(doing + ": " + term.Size(bytes)) },
		Done: func(step setup.Step) {
			progress.Stop()
			mark := term.Done
			if step.Status == setup.Missing {
				mark = term.Warned
			}
			steps.Status(mark, step.Name, string(step.Status), step.Detail)
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

func finishSetup(a *app, result setup.Result) error {
	return a.show(result, func(p *term.Printer) {
		if result.InternalSecret != "" {
			p.Print("")
			p.Pairs(term.Pair{Key: secret.InternalKey, Value: result.InternalSecret, Tone: term.Strong})
			p.Info("This is shown once; later: dreamcore secret show " + secret.InternalSecret)
		}
		p.Print("")
		p.Success("This machine is ready")
		p.Hint("run: dreamcore generate \"a snake game with ice physics\"")
	})
}

// prove calls do with a machine of its own on which no game is made.
func (a *app) prove(ctx context.Context, bin func(*daemon.State) agent.Binary, do func(m *daemon.Machine) (string, error)) (version string, err error) {
	err = a.withState(func(s *daemon.State) error {
		s.Config.ModelScript = replay.DemoName // a proof has its own script and needs no key
		return a.withMachine(ctx, s, bin(s), "error", func(m *daemon.Machine) error {
			version, err = do(m)
			return err
		})
	})
	return version, err
}

// recordedAgent returns the agent of the state directory, or an empty one: whether it
// is there has a check of its own.
func recordedAgent(s *daemon.State) agent.Binary {
	bin, _ := s.Agent()
	return bin
}

// withMachine calls do with what jobs and checks of games need.
func (a *app) withMachine(ctx context.Context, s *daemon.State, bin agent.Binary, level string, do func(m *daemon.Machine) error) error {
	m, err := daemon.OpenMachine(ctx, s, bin, a.logger(level))
	if err != nil {
		return err
	}
	return errors.Join(do(m), m.Close())
}
