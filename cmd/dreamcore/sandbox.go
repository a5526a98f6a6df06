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

// running is a client of the service that runs on the state directory.
func (a *app) running() (*control.Client, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	return control.NewClient(filepath.Join(cfg.State, daemon.RunDir)), nil
}

func newPsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ps", Short: "List the sandboxes of the service that runs here",
		Long: "Lists the sandboxes that the service on this state directory keeps: one for each\n" +
			"user who had a job lately, and what it does now.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			defer client.Close()
			list, err := client.List(c.Context())
			if err != nil {
				return err
			}
			if a.io.JSON {
				return a.io.WriteJSON(map[string]any{"sandboxes": list})
			}
			showSandboxes(a.io.Stdout(), list, time.Now())
			return nil
		},
	}
}

func showSandboxes(p *term.Printer, list []workspace.Info, now time.Time) {
	if len(list) == 0 {
		p.Info("no sandboxes")
		return
	}
	t := term.Table{Columns: []term.Column{{Title: "name"}, {Title: "state"}, {Title: "sandbox"}, {Title: "jobs", Right: true}, {Title: "age", Right: true}, {Title: "last used", Right: true}}}
	for _, s := range list {
		t.Rows = append(t.Rows, term.Row(s.Name, string(s.State), s.Sandbox, strconv.Itoa(s.Jobs),
			ago(now.Sub(s.Created)), ago(now.Sub(s.LastUsed))))
	}
	p.Table(t)
}

// ago is a time that has passed, as roughly as people say it.
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
	c := &cobra.Command{
		Use: "sandbox", Short: "Stop sandboxes, look into them, read what ran in them",
		Args: usageArgs(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSandboxStopCmd(a), newSandboxExecCmd(a), newSandboxLogsCmd(a))
	return c
}

func newSandboxStopCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "stop NAME ...", Short: "End sandboxes; a job in one ends as interrupted, and what it made is kept",
		Example: "  dreamcore sandbox stop user-UUID",
		Args:    usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, names []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			defer client.Close()
			for _, name := range names {
				if err := client.Stop(c.Context(), name); err != nil {
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
		},
	}
}

func newSandboxExecCmd(a *app) *cobra.Command {
	var stdin bool
	c := &cobra.Command{
		Use: "exec NAME -- PROGRAM [ARG ...]", Short: "Run a program in a sandbox, as the agent's user",
		Long: "Runs a program beside a job or, where none runs, in the sandbox alone, and exits with\n" +
			"its exit code. What it leaves running ends with it or with the job.",
		Example: "  dreamcore sandbox exec user-UUID -- ps aux\n  tar c . | dreamcore sandbox exec -i user-UUID -- tar t",
		Args:    usageArgs(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			program := args[1:]
			if program[0] == "--" { // cobra stops looking at the name
				program = program[1:]
			}
			client, err := a.running()
			if err != nil {
				return err
			}
			defer client.Close()
			var in io.Reader
			if stdin {
				in = input{c.Context(), a.io.In}
			}
			code, err := client.Exec(c.Context(), args[0], program, in,
				harmless(a.io.Out, a.io.OutTerminal), harmless(a.io.ErrOut, a.io.ErrTerminal))
			if err != nil {
				return err
			}
			if code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&stdin, "stdin", "i", false, "give it this command's standard input")
	c.Flags().SetInterspersed(false)
	return c
}

// harmless keeps what a program in a sandbox writes from steering the
// operator's terminal. A pipe gets every byte.
func harmless(w io.Writer, terminal bool) io.Writer {
	if !terminal {
		return w
	}
	return visible{w}
}

type visible struct{ w io.Writer }

// Write shows control characters, of which escape sequences begin with one, as
// question marks. C1 controls in UTF-8 are two bytes, 0xc2 and the control.
func (v visible) Write(p []byte) (int, error) {
	shown := make([]byte, len(p))
	for i, b := range p {
		if b < ' ' && b != '\n' && b != '\t' && b != '\r' || b == 0x7f || b == 0xc2 {
			b = '?'
		}
		shown[i] = b
	}
	return v.w.Write(shown)
}

func newSandboxLogsCmd(a *app) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use: "logs NAME", Short: "Print the events of the last job in a sandbox, one JSON object a line",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.running()
			if err != nil {
				return err
			}
			defer client.Close()
			return client.Logs(c.Context(), args[0], follow, func(e dreamcore.Event) error { return a.io.WriteLine(e) })
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on to the end of the job")
	return c
}
