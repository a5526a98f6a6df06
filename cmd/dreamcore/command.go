package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// group returns a command that consists of subcommands.
func group(use, short, long, example string, subcommands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: usageArgs(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(subcommands...)
	return c
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

// done reports a success: v for programs, a message for people.
func (a *app) done(v any, message string, details ...string) error {
	if a.io.JSON {
		return a.io.WriteJSON(v)
	}
	a.io.Stdout().Success(message, details...)
	return nil
}

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

// list renders rows of the type R, which is their JSON form too.
type list[R any] struct {
	key         string // of the rows in the JSON object
	columns     []term.Column
	cells       func(R) []string
	empty, hint string // printed if there are no rows; hint is optional
}

// show prints the rows on standard output: a JSON object with key and the members
// of more, or a table.
func (l list[R]) show(io *term.IO, rows []R, more map[string]any) error {
	if io.JSON {
		object := map[string]any{l.key: append([]R{}, rows...)}
		for k, v := range more {
			object[k] = v
		}
		return io.WriteJSON(object)
	}
	if len(rows) == 0 && l.empty != "" {
		io.Stdout().Info(l.empty)
		io.Stdout().Hint(l.hint)
		return nil
	}
	t := term.Table{Columns: l.columns}
	for _, r := range rows {
		t.Rows = append(t.Rows, term.Row(l.cells(r)...))
	}
	io.Stdout().Table(t)
	return nil
}

// columns returns columns by title. A title that begins with ">" is aligned to
// the right, one that begins with "~" wraps.
func columns(titles ...string) []term.Column {
	all := make([]term.Column, len(titles))
	for i, title := range titles {
		switch title[0] {
		case '>':
			all[i] = term.Column{Title: title[1:], Right: true}
		case '~':
			all[i] = term.Column{Title: title[1:], Flex: true}
		default:
			all[i] = term.Column{Title: title}
		}
	}
	return all
}

func argument(args []string, i int, otherwise string) string {
	if i < len(args) {
		return args[i]
	}
	return otherwise
}
