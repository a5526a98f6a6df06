package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/daemon/crash"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
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
	table    *commandline.Table
	env      config.Environment
	environ  []string
	redactor *secret.Redactor
	// inherited are the descriptors that the parent process has passed, for serve.
	inherited []*os.File
	signals   *daemon.Signals // of the process, for serve

	stateFlag  string
	configFlag string
	flags      map[string]any // settings that flags override
	looks      bool           // the command only reads the state directory
}

// errReported ends a command that has already printed its error.
var errReported = errors.New("reported")

func run() int {
	inherited := config.InheritedFiles() // first: children must not get them
	environ, wipeErr := config.Environ()
	a := &app{inherited: inherited, environ: config.WithoutSecrets(environ), env: config.ReadEnvironment(environ), redactor: &secret.Redactor{}, flags: map[string]any{}}
	a.redactor.Add(a.env.APIKey, a.env.InternalSecret, a.env.Identity)
	a.io = term.System(os.Stdin, os.Stdout, os.Stderr, config.Lookup(environ))
	if wipeErr != nil && a.env.Identity != "" {
		return a.report(&dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the identity cannot be erased from the environment, where other processes may read it", Err: wipeErr,
			Hint: "give it as a file: unset DREAMCORE_IDENTITY and set DREAMCORE_IDENTITY_FILE=FILE",
		})
	}
	ctx, signals := daemon.Interruptible()
	defer signals.Stop()
	a.signals = signals
	if os.Geteuid() == 0 { // without root: see daemon.Start
		if err := crash.Harden(); err != nil {
			return a.report(err)
		}
	}
	err := a.execute(ctx, os.Args[1:])
	if err != nil && errors.Is(context.Cause(ctx), daemon.ErrInterrupted) && !errors.Is(err, errReported) {
		if a.io.JSON {
			a.io.RenderError(&dreamcore.Error{Code: codeInterrupted, Message: "interrupted"})
		} else {
			a.io.Stdout().Warning("interrupted")
		}
		return exitInterrupted
	}
	return a.report(err)
}

// execute runs the command that args select.
func (a *app) execute(ctx context.Context, args []string) error {
	cobra.EnableCommandSorting = false // the help lists them in the order in which they are needed
	root := newRootCmd(a)
	a.io.JSON = commandline.WantsJSON(args) // before the flags are parsed, which may fail
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// codeInterrupted is the code of the error object of a command that a signal ended.
const codeInterrupted dreamcore.Code = "INTERRUPTED"

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

func newRootCmd(a *app) *cobra.Command {
	a.table = readCommands()
	root := a.table.New(dreamcore.AppName, nil)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.RunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed("version") {
			return a.showVersion()
		}
		return c.Help()
	}
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		a.io.CompleteHint = func(hint string) string { return commandline.Repeat(c, hint) }
		return a.checkState(c)
	}
	root.SetIn(a.io.In)
	root.SetOut(a.io.Out)
	root.SetErr(a.io.ErrOut)
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { commandline.ShowHelp(a.io, c) })
	root.Flags().BoolP("version", "v", false, "print the version")
	root.SetFlagErrorFunc(commandline.UnknownFlag)
	pf := root.PersistentFlags()
	pf.StringVar(&a.stateFlag, "state", "", "state directory (DREAMCORE_STATE; default /var/lib/dreamcore as root)")
	pf.StringVar(&a.configFlag, "config", "", "configuration file (DREAMCORE_CONFIG; default config.yaml in the state directory)")
	pf.BoolVar(&a.io.JSON, "json", false, "print JSON for programs")
	root.AddGroup(a.table.Groups()...)
	root.AddCommand(newSetupCmd(a), newGenerateCmd(a), newDoctorCmd(a), newServeCmd(a), newRouteCmd(a), newCellsCmd(a), newDeployCmd(a), newGateCmd(a),
		newPreviewCmd(a), newCheckCmd(a), newProjectsCmd(a), newImportCmd(a), newExportCmd(a), newVolumeCmd(a),
		newJobsCmd(a), newPsCmd(a), newSandboxCmd(a), newUsersCmd(a), newUsageCmd(a), newAuditCmd(a), newConfigCmd(a),
		newSecretCmd(a), newPromptsCmd(a), newImageCmd(a), newBackupCmd(a), newRestoreCmd(a), newManCmd(a),
		a.command("version", func(context.Context, []string) error { return a.showVersion() }))
	help := a.table.New("dreamcore help", func(_ context.Context, args []string) error { return commandline.Help(a.io, root, args) })
	help.Args, help.ValidArgsFunction = nil, commandline.Quick(commandline.Words(commandline.HelpWords).Complete) // cobra adds it later than the others
	root.SetHelpCommand(help)
	root.CompletionOptions.HiddenDefaultCmd = true
	a.addCompletions(root)
	return root
}

func newManCmd(a *app) *cobra.Command {
	var date string
	var c *cobra.Command
	c = a.command("man", func(_ context.Context, args []string) error {
		if _, err := time.Parse(time.DateOnly, date); date != "" && err != nil {
			return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("--date %q is not a date", date), Hint: "write it as 2026-11-01", Err: err}
		}
		n, err := commandline.WriteManual(c.Root(), args[0], version, date)
		if err != nil {
			return err
		}
		return a.done(map[string]any{"directory": args[0], "pages": n}, fmt.Sprintf("%d manual pages written", n), args[0])
	})
	c.Flags().StringVar(&date, "date", "", "date that the pages show, such as 2026-11-01 (default none: the same version makes the same pages)")
	return c
}

func (a *app) showVersion() error {
	return a.show(map[string]string{"app": dreamcore.AppName, "version": version}, func(p *term.Printer) { p.Print("dreamcore " + version) })
}

// config loads the settings, with flags applied.
func (a *app) config() (config.Config, error) {
	sources, err := a.sources()
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(sources)
}

// sources returns where the settings come from.
func (a *app) sources() (config.Sources, error) {
	flags := maps.Clone(a.flags)
	if a.stateFlag != "" {
		abs, err := filepath.Abs(a.stateFlag)
		if err != nil {
			return config.Sources{}, err
		}
		flags["state"] = abs
	}
	return config.Sources{File: cmp.Or(a.configFlag, a.env.ConfigFile), Environ: a.environ, Flags: flags}, nil
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
	open := daemon.OpenState
	if a.looks {
		open = daemon.LookAtState
	}
	s, err := open(cfg, a.env, a.redactor)
	if err == nil {
		s.Pull = a.pull
	}
	return s, err
}

// logger returns the log for operators: on standard error, without secrets.
func (a *app) logger(level string) *slog.Logger { return a.loggerIn(level, config.LogText) }

// loggerIn is logger in a form of log_format; --json means JSON.
func (a *app) loggerIn(level, format string) *slog.Logger {
	return show.Logger(a.io.Stderr(), a.redactor, level, a.io.JSON || format == config.LogJSON)
}
