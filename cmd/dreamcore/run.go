package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Exit codes that scripts rely on.
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2
	exitUnreachable  = 3
	exitUnauthorized = 4
	exitInterrupted  = 130
)

// version is set by the build.
var version = "0.1.0-dev"

// app holds what every command works with.
type app struct {
	io       *term.IO
	env      config.Environment
	environ  []string
	redactor *secret.Redactor

	stateFlag  string
	configFlag string
	flags      map[string]any // settings that flags override
}

// errReported ends a command that has already printed its error.
var errReported = errors.New("reported")

func run() int {
	environ, wipeErr := config.Environ()
	a := &app{environ: config.WithoutSecrets(environ), env: config.ReadEnvironment(environ), redactor: &secret.Redactor{}, flags: map[string]any{}}
	a.redactor.Add(a.env.APIKey, a.env.InternalSecret, a.env.Identity)
	a.io = term.System(os.Stdin, os.Stdout, os.Stderr, config.Lookup(environ))
	if wipeErr != nil && a.env.Identity != "" {
		return a.report(&dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the identity cannot be erased from the environment, where other processes may read it", Err: wipeErr,
			Hint: "give it as a file: unset DREAMCORE_IDENTITY and set DREAMCORE_IDENTITY_FILE=FILE",
		})
	}
	ctx, stop := daemon.Interruptible()
	defer stop()
	if os.Geteuid() == 0 { // without root: see daemon.Start
		if err := crash.Harden(); err != nil {
			return a.report(err)
		}
	}
	cobra.EnableCommandSorting = false // the help lists them in the order in which they are needed
	root := newRootCmd(a)
	err := root.ExecuteContext(ctx)
	if err != nil && errors.Is(context.Cause(ctx), daemon.ErrInterrupted) && !errors.Is(err, errReported) {
		a.io.Human().Warning("interrupted")
		return exitInterrupted
	}
	return a.report(err)
}

// report prints an error once and returns its exit code.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	if !errors.Is(err, errReported) {
		a.io.RenderError(redacted{err, a.redactor})
	}
	switch dreamcore.CodeOf(err) {
	case dreamcore.CodeInvalid, dreamcore.CodeTooLarge:
		return exitUsage
	case dreamcore.CodeUnreachable:
		return exitUnreachable
	case dreamcore.CodeUnauthorized:
		return exitUnauthorized
	}
	return exitFailed
}

// exitCode is an error that has been reported and only carries the code.
type exitCode int

func (e exitCode) Error() string { return "" }

// redacted is an error without secrets in its text, and with the hint of hintOf.
type redacted struct {
	err error
	r   *secret.Redactor
}

func (e redacted) Error() string { return e.r.Redact(e.err.Error()) }
func (e redacted) Unwrap() error { return e.err }

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "dreamcore",
		Short: "Turn prompts into browser games, safely, on your own machines",
		Long: "dreamcore runs an AI agent (Claude Code) in gVisor sandboxes and serves the\n" +
			"games it writes: one static program.\n\n" +
			"Settings come from config.yaml in the state directory, then from DREAMCORE_… in\n" +
			"the environment, then from flags. Exit codes: 0 done, 1 failed, 2 usage,\n" +
			"3 unreachable, 4 secret refused, 130 interrupted.",
		Example: "  dreamcore setup                     make this machine ready\n" +
			"  dreamcore generate \"a snake game\"   make a game from the terminal\n" +
			"  dreamcore serve                     the HTTP service\n" +
			"  dreamcore gate --all                check this service or any other",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(cobra.NoArgs),
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(a.io.In)
	root.SetOut(a.io.Out)
	root.SetErr(a.io.ErrOut)
	root.SetVersionTemplate("dreamcore {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return misuse(c, err) })
	pf := root.PersistentFlags()
	pf.StringVar(&a.stateFlag, "state", "", "state directory (DREAMCORE_STATE; default /var/lib/dreamcore as root)")
	pf.StringVar(&a.configFlag, "config", "", "configuration file (DREAMCORE_CONFIG; default config.yaml in the state directory)")
	pf.BoolVar(&a.io.JSON, "json", false, "print JSON for programs")
	addGroup(root, "start", "Start", newSetupCmd(a), newGenerateCmd(a), newDoctorCmd(a))
	addGroup(root, "serve", "Serve", newServeCmd(a), newDeployCmd(a), newGateCmd(a))
	addGroup(root, "projects", "Projects", newPreviewCmd(a), newImportCmd(a), newExportCmd(a), newVolumeCmd(a))
	addGroup(root, "operate", "Operate", newPsCmd(a), newSandboxCmd(a), newUsageCmd(a), newAuditCmd(a),
		newSecretCmd(a), newPromptsCmd(a), newImageCmd(a), newBackupCmd(a), newRestoreCmd(a))
	root.AddCommand(newVersionCmd(a))
	root.SetHelpCommand(newHelpCmd(a))
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// addGroup adds commands under a heading of the help.
func addGroup(root *cobra.Command, id, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: id, Title: title + ":"})
	for _, c := range commands {
		c.GroupID = id
	}
	root.AddCommand(commands...)
}

// misuse gives an error of the command line its code and hint.
func misuse(c *cobra.Command, err error) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: strings.TrimSpace(err.Error()),
		Hint: "run: " + c.CommandPath() + " --help",
	}
}

// usageArgs wraps check so that its errors exit with the code of a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return misuse(c, err)
		}
		return nil
	}
}

func newVersionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if a.io.JSON {
				return a.io.WriteJSON(map[string]string{"app": dreamcore.AppName, "version": version})
			}
			a.io.Stdout().Print("dreamcore " + version)
			return nil
		},
	}
}

// config loads the settings, with flags applied.
func (a *app) config() (config.Config, error) {
	flags := map[string]any{}
	for k, v := range a.flags {
		flags[k] = v
	}
	if a.stateFlag != "" {
		abs, err := absolute(a.stateFlag)
		if err != nil {
			return config.Config{}, err
		}
		flags["state"] = abs
	}
	return config.Load(config.Sources{File: cmp.Or(a.configFlag, a.env.ConfigFile), Environ: a.environ, Flags: flags})
}

// configFile returns the path of the configuration.
func (a *app) configFile(c config.Config) string {
	return cmp.Or(a.configFlag, a.env.ConfigFile, filepath.Join(c.State, config.FileName))
}

// open loads the settings and opens the state directory. The caller must close
// the state.
func (a *app) open() (*daemon.State, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	s, err := daemon.OpenState(cfg, a.env, a.redactor)
	if err != nil {
		return nil, err
	}
	s.Pull = a.pull
	return s, nil
}

// logger returns the log for operators: on standard error, without secrets.
func (a *app) logger(level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: l}
	w := logWriter{a.io.Stderr()}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if a.io.JSON {
		h = slog.NewJSONHandler(w, opts)
	}
	return slog.New(a.redactor.Handler(h))
}

// logWriter writes lines of the log above the progress line, if there is one.
type logWriter struct{ p *term.Printer }

func (w logWriter) Write(line []byte) (int, error) {
	w.p.Println(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}
