package main

import (
	"context"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/lend"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// withService calls do with a client of the service that runs on the state
// directory.
func (a *app) withService(do func(c *control.Client) error) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	c := control.NewClient(filepath.Join(cfg.State, daemon.RunDir))
	defer c.Close()
	return do(c)
}

// serviceCommand returns a command on the service that runs on the state directory.
func (a *app) serviceCommand(path string, run func(ctx context.Context, service *control.Client, args []string) error) *cobra.Command {
	return a.command(path, func(ctx context.Context, args []string) error {
		return a.withService(func(service *control.Client) error { return run(ctx, service, args) })
	})
}

func newPsCmd(a *app) *cobra.Command {
	return a.serviceCommand("ps", func(ctx context.Context, service *control.Client, _ []string) error {
		sandboxes, err := service.List(ctx)
		if err != nil {
			return err
		}
		return show.Sandboxes(a.io, sandboxes, time.Now())
	})
}

func newSandboxCmd(a *app) *cobra.Command {
	return a.group("sandbox", newSandboxStopCmd(a), newSandboxExecCmd(a), newSandboxLogsCmd(a))
}

func newSandboxStopCmd(a *app) *cobra.Command {
	return a.serviceCommand("sandbox stop", func(ctx context.Context, service *control.Client, names []string) error {
		for _, name := range names {
			if err := service.Stop(ctx, name); err != nil {
				return err
			}
			a.people(a.io.Stdout()).Success(name + " stopped")
		}
		if a.io.JSON {
			return a.io.WriteJSON(map[string]any{"stopped": names})
		}
		return nil
	})
}

func newSandboxExecCmd(a *app) *cobra.Command {
	var stdin, terminal bool
	c := a.command("sandbox exec", func(ctx context.Context, args []string) error {
		program := args[1:]
		if program[0] == "--" { // cobra does not remove it after the name
			program = program[1:]
		}
		if terminal {
			if err := lend.Check(a.io); err != nil {
				return err
			}
		}
		return a.withService(func(service *control.Client) error {
			code, err := 0, error(nil)
			if terminal {
				code, err = lend.Terminal(ctx, a.io, service, args[0], program)
			} else {
				var in io.Reader
				if stdin {
					in = a.io.Input(ctx)
				}
				code, err = service.Exec(ctx, args[0], program, in,
					term.WithoutControls(a.io.Out, a.io.OutTerminal), term.WithoutControls(a.io.ErrOut, a.io.ErrTerminal))
			}
			if err == nil && code != 0 {
				err = exitCode(code)
			}
			return err
		})
	})
	c.Flags().BoolVarP(&stdin, "stdin", "i", false, "forward standard input to the program")
	c.Flags().BoolVarP(&terminal, "terminal", "t", false, "give the program this terminal, and what is typed")
	c.Flags().SetInterspersed(false)
	return c
}

func newSandboxLogsCmd(a *app) *cobra.Command {
	var follow bool
	c := a.serviceCommand("sandbox logs", func(ctx context.Context, service *control.Client, args []string) error {
		return service.Logs(ctx, args[0], follow, func(e dreamcore.Event) error { return a.io.WriteLine(e) })
	})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "continue to the end of the job")
	return c
}
