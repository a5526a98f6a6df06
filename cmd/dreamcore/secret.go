package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func newSecretCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "secret", Short: "Create, list, show, rotate and delete sealed secrets",
		Args: usageArgs(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSecretCreateCmd(a), newSecretListCmd(a), newSecretShowCmd(a), newSecretRotateCmd(a), newSecretDeleteCmd(a))
	return c
}

func newSecretCreateCmd(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "create NAME KEY=value [KEY=value ...]", Short: "Seal a secret: a named set of keys and values",
		Long: "Seals values for this state directory. KEY=- reads one value from standard input, so\n" +
			"that it shows in no process list and no history.",
		Example: "  dreamcore secret create anthropic-api-key ANTHROPIC_API_KEY=- < key.txt\n" +
			"  dreamcore secret create --force modal-internal-secret MODAL_INTERNAL_SECRET=- < old.txt",
		Args: usageArgs(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			name, values, err := secret.ParseAssignments(args, input{c.Context(), a.io.In})
			if err != nil {
				return err
			}
			store, err := a.secrets(true)
			if err != nil {
				return err
			}
			if err := store.Create(name, values, force); err != nil {
				return err
			}
			if a.io.JSON {
				return a.io.WriteJSON(map[string]any{"name": name, "keys": slices.Sorted(maps.Keys(values))})
			}
			a.io.Stdout().Success("secret "+name+" sealed", strings.Join(slices.Sorted(maps.Keys(values)), ", "))
			return nil
		},
	}
	c.Flags().BoolVar(&force, "force", false, "replace a secret that exists")
	return c
}

func newSecretListCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List secrets, without their values", Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			store, err := a.secrets(false)
			if err != nil {
				return err
			}
			infos, err := store.List()
			if err != nil {
				return err
			}
			return showSecrets(a, infos)
		},
	}
}

func showSecrets(a *app, infos []secret.Info) error {
	type row struct {
		Name    string    `json:"name"`
		Keys    []string  `json:"keys"`
		Created time.Time `json:"created"`
		Error   string    `json:"error,omitempty"`
	}
	rows, table := []row{}, term.Table{Columns: []term.Column{{Title: "NAME"}, {Title: "KEYS", Flex: true}, {Title: "CREATED"}}}
	for _, i := range infos {
		r := row{Name: i.Name, Keys: i.Keys, Created: i.Created}
		keys := strings.Join(i.Keys, ", ")
		if i.Err != nil {
			r.Error, keys = i.Err.Error(), "cannot be opened: "+i.Err.Error()
		}
		rows = append(rows, r)
		table.Rows = append(table.Rows, term.Row(i.Name, keys, i.Created.Local().Format(time.DateTime)))
	}
	if a.io.JSON {
		return a.io.WriteJSON(map[string]any{"secrets": rows})
	}
	if len(rows) == 0 {
		a.io.Stdout().Info("There are no secrets yet")
		a.io.Stdout().Hint("run: dreamcore setup")
		return nil
	}
	a.io.Stdout().Table(table)
	return nil
}

func newSecretShowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME [KEY]", Short: "Print the values of a secret", Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := a.secrets(false)
			if err != nil {
				return err
			}
			values, err := store.Get(args[0])
			if err != nil {
				return err
			}
			if len(args) == 2 {
				v, ok := values[args[1]]
				if !ok {
					return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "the secret has no key of that name", Hint: "run: dreamcore secret list"}
				}
				values = map[string]string{args[1]: v}
			}
			if a.io.JSON {
				return a.io.WriteJSON(values)
			}
			// A secret of one value is printed bare, so that a script can take it.
			for _, k := range slices.Sorted(maps.Keys(values)) {
				line := values[k]
				if len(values) > 1 {
					line = k + "=" + line
				}
				if err := a.io.WriteLine([]byte(line)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newSecretRotateCmd(a *app) *cobra.Command {
	var finish bool
	c := &cobra.Command{
		Use: "rotate", Short: "Replace the internal secret, with the old one valid until --finish",
		Long: "Gives the secret " + secret.InternalSecret + " a new value. The value before it stays valid\n" +
			"until --finish, or until the next rotation, so that front ends can be switched over one\n" +
			"by one. A service that runs takes either up within seconds.",
		Example: "  dreamcore secret rotate\n  dreamcore secret rotate --finish",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			store, err := a.secrets(false)
			if err != nil {
				return err
			}
			if finish {
				return finishRotation(a, store)
			}
			return rotateInternal(a, store)
		},
	}
	c.Flags().BoolVar(&finish, "finish", false, "make the value before the last rotation invalid")
	return c
}

func rotateInternal(a *app, store *secret.Store) error {
	value, err := store.RotateInternal()
	if err != nil {
		return err
	}
	if a.io.JSON {
		return a.io.WriteJSON(map[string]string{"name": secret.InternalSecret, "value": value})
	}
	out := a.io.Stdout()
	out.Pairs(term.Pair{Key: secret.InternalKey, Value: value, Tone: term.Strong})
	out.Success("The internal secret has a new value; the one before stays valid")
	out.Hint("when no front end sends the old one any more, run: dreamcore secret rotate --finish")
	return nil
}

func finishRotation(a *app, store *secret.Store) error {
	ended, err := store.EndRotation()
	if err != nil {
		return err
	}
	if a.io.JSON {
		return a.io.WriteJSON(map[string]any{"name": secret.InternalSecret, "finished": ended})
	}
	if !ended {
		a.io.Stdout().Info("There is no rotation to finish: one value is valid")
		return nil
	}
	a.io.Stdout().Success("The old value of the internal secret is no longer valid")
	return nil
}

func newSecretDeleteCmd(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"rm"}, Short: "Delete a secret for good", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return deleteSecret(c.Context(), a, args[0], yes) },
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func deleteSecret(ctx context.Context, a *app, name string, yes bool) error {
	store, err := a.secrets(false)
	if err != nil {
		return err
	}
	if !yes {
		ok, err := a.io.Confirm(ctx, "Delete the secret "+name+" for good?", "--yes")
		if err != nil {
			return err
		}
		if !ok {
			a.io.Human().Info("Nothing was deleted")
			return nil
		}
	}
	if err := store.Delete(name); err != nil {
		return err
	}
	if a.io.JSON {
		return a.io.WriteJSON(map[string]string{"deleted": name})
	}
	a.io.Stdout().Success("secret " + name + " deleted")
	return nil
}

// secrets opens the store, which is made first where create is set. Else
// nothing is made: clients look for a secret on machines that serve nothing.
func (a *app) secrets(create bool) (*secret.Store, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	return daemon.Secrets(cfg, a.env, create)
}
