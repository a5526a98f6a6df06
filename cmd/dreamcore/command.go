package main

import (
	"context"
	_ "embed"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/docs"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gate"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// commandTexts is the table of commands: see commandline.Table.
//
//go:embed commands.txt
var commandTexts string

func readCommands() *commandline.Table {
	return commandline.Parse(commandTexts, strings.NewReplacer(
		"{gates}", strings.TrimSuffix(gate.Describe(false), "\n"), "{deep gates}", strings.TrimSuffix(gate.Describe(true), "\n"),
		"{topics}", strings.Join(docs.Topics(), ", "),
	))
}

// command returns the command of the table with a path, such as "secret show".
func (a *app) command(path string, run func(ctx context.Context, args []string) error) *cobra.Command {
	return a.table.New("dreamcore "+path, run)
}

// group returns the command of the table that consists of subcommands.
func (a *app) group(path string, subcommands ...*cobra.Command) *cobra.Command {
	return a.table.Group("dreamcore "+path, subcommands...)
}

// withState opens the state directory for one call.
func (a *app) withState(do func(s *daemon.State) error) (err error) {
	s, err := a.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(s)
}

// show prints a result: v for programs, or what text prints for people.
func (a *app) show(v any, text func(p *term.Printer)) error { return show.Value(a.io, v, text) }

// done reports a success: v for programs, a message for people.
func (a *app) done(v any, message string, details ...string) error {
	return a.show(v, func(p *term.Printer) { p.Success(message, details...) })
}

// people returns p, or with --json a printer that prints nothing.
func (a *app) people(p *term.Printer) *term.Printer {
	if a.io.JSON {
		return (&term.IO{Out: io.Discard}).Stdout()
	}
	return p
}

// yesFlag adds the flag that answers questions of a command.
func yesFlag(c *cobra.Command, yes *bool) { c.Flags().BoolVarP(yes, "yes", "y", false, "do not ask") }

// confirmed asks for confirmation unless yes is set. If the operator declines, it
// prints declined.
func (a *app) confirmed(ctx context.Context, yes bool, question, declined string) (bool, error) {
	if yes {
		return true, nil
	}
	ok, err := a.io.Confirm(ctx, question, "--yes")
	if err == nil && !ok {
		a.io.Human().Info(declined)
	}
	return ok, err
}

func argument(args []string, i int, otherwise string) string {
	if i < len(args) {
		return args[i]
	}
	return otherwise
}
