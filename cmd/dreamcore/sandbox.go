package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
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

func newPsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ps", Short: "List the sandboxes of the running service",
		Long: "Lists the sandboxes of the service that runs on this state directory, one for each\n" +
			"user with a recent job, and what each is doing.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withService(func(service *control.Client) error {
				sandboxes, err := service.List(c.Context())
				if err != nil {
					return err
				}
				return showSandboxes(a.io, sandboxes, time.Now())
			})
		},
	}
}

func showSandboxes(io *term.IO, sandboxes []workspace.Info, now time.Time) error {
	return list[workspace.Info]{
		key: "sandboxes", columns: columns("name", "state", "sandbox", ">jobs", ">age", ">last used"), empty: "no sandboxes",
		cells: func(s workspace.Info) []string {
			return []string{s.Name, string(s.State), s.Sandbox, strconv.Itoa(s.Jobs), ago(now.Sub(s.Created)), ago(now.Sub(s.LastUsed))}
		},
	}.show(io, sandboxes, nil)
}

// ago formats the time that has passed, roughly.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

func newSandboxCmd(a *app) *cobra.Command {
	return group("sandbox", "Stop sandboxes, run programs in them, read the events of their jobs", "", "",
		newSandboxStopCmd(a), newSandboxExecCmd(a), newSandboxLogsCmd(a))
}

func newSandboxStopCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "stop NAME ...", Short: "Stop sandboxes; a running job ends as interrupted, and its files are saved",
		Example: "  dreamcore sandbox stop user-UUID",
		Args:    usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, names []string) error {
			return a.withService(func(service *control.Client) error {
				for _, name := range names {
					if err := service.Stop(c.Context(), name); err != nil {
						return err
					}
					if !a.io.JSON {
						a.io.Stdout().Success(name + " stopped")
					}
				}
				if a.io.JSON {
					return a.io.WriteJSON(map[string]any{"stopped": names})
				}
				return nil
			})
		},
	}
}

func newSandboxExecCmd(a *app) *cobra.Command {
	var stdin bool
	c := &cobra.Command{
		Use: "exec NAME -- PROGRAM [ARG ...]", Short: "Run a program in a sandbox, as the agent's user",
		Long: "Runs a program alongside the job of the sandbox, if there is one, and exits with its\n" +
			"exit code. Processes that it leaves behind end with it or with the job.",
		Example: "  dreamcore sandbox exec user-UUID -- ps aux\n  tar c . | dreamcore sandbox exec -i user-UUID -- tar t",
		Args:    usageArgs(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			program := args[1:]
			if program[0] == "--" { // cobra does not remove it after the name
				program = program[1:]
			}
			var in io.Reader
			if stdin {
				in = a.io.Input(c.Context())
			}
			return a.withService(func(service *control.Client) error {
				code, err := service.Exec(c.Context(), args[0], program, in,
					term.WithoutControls(a.io.Out, a.io.OutTerminal), term.WithoutControls(a.io.ErrOut, a.io.ErrTerminal))
				if err == nil && code != 0 {
					err = exitCode(code)
				}
				return err
			})
		},
	}
	c.Flags().BoolVarP(&stdin, "stdin", "i", false, "forward standard input to the program")
	c.Flags().SetInterspersed(false)
	return c
}

func newSandboxLogsCmd(a *app) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use: "logs NAME", Short: "Print the events of the last job in a sandbox, one JSON object per line",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withService(func(service *control.Client) error {
				return service.Logs(c.Context(), args[0], follow, func(e dreamcore.Event) error { return a.io.WriteLine(e) })
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "continue to the end of the job")
	return c
}
