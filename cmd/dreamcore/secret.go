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
	return group("secret", "Create, list, show, rotate and delete sealed secrets", "", "",
		newSecretCreateCmd(a), newSecretListCmd(a), newSecretShowCmd(a), newSecretRotateCmd(a), newSecretDeleteCmd(a))
}

func newSecretCreateCmd(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "create NAME KEY=value [KEY=value ...]", Short: "Seal a secret: a named set of keys and values",
		Long: "Seals values for this state directory. KEY=- reads one value from standard input, so\n" +
			"that it appears in no process list and no shell history.",
		Example: "  dreamcore secret create anthropic-api-key ANTHROPIC_API_KEY=- < key.txt\n" +
			"  dreamcore secret create --force modal-internal-secret MODAL_INTERNAL_SECRET=- < old.txt",
		Args: usageArgs(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			name, values, err := secret.ParseAssignments(args, a.io.Input(c.Context()))
			if err != nil {
				return err
			}
			store, err := a.secrets(true)
			if err == nil {
				err = store.Create(name, values, force)
			}
			if err != nil {
				return err
			}
			keys := slices.Sorted(maps.Keys(values))
			return a.done(map[string]any{"name": name, "keys": keys}, "secret "+name+" sealed", strings.Join(keys, ", "))
		},
	}
	c.Flags().BoolVar(&force, "force", false, "replace an existing secret")
	return c
}

type secretRow struct {
	Name    string    `json:"name"`
	Keys    []string  `json:"keys"`
	Created time.Time `json:"created"`
	Error   string    `json:"error,omitempty"`
}

func (r secretRow) cells() []string {
	keys := strings.Join(r.Keys, ", ")
	if r.Error != "" {
		keys = "cannot be opened: " + r.Error
	}
	return []string{r.Name, keys, r.Created.Local().Format(time.DateTime)}
}

func newSecretListCmd(a *app) *cobra.Command {
	secrets := list[secretRow]{
		key: "secrets", columns: columns("NAME", "~KEYS", "CREATED"), cells: secretRow.cells,
		empty: "There are no secrets yet", hint: "run: dreamcore setup",
	}
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
			var rows []secretRow
			for _, i := range infos {
				r := secretRow{Name: i.Name, Keys: i.Keys, Created: i.Created}
				if i.Err != nil {
					r.Error = i.Err.Error()
				}
				rows = append(rows, r)
			}
			return secrets.show(a.io, rows, nil)
		},
	}
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
					return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "the secret has no such key", Hint: "run: dreamcore secret list"}
				}
				values = map[string]string{args[1]: v}
			}
			if a.io.JSON {
				return a.io.WriteJSON(values)
			}
			// A single value is printed without its key, for scripts.
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
		Long: "Gives the secret " + secret.InternalSecret + " a new value. The previous value stays valid\n" +
			"until --finish or the next rotation, so that front ends can be switched one by one. A\n" +
			"running service applies the change within seconds.",
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
	c.Flags().BoolVar(&finish, "finish", false, "invalidate the value before the last rotation")
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
	out.Success("The internal secret has a new value; the previous one stays valid")
	out.Hint("when no front end sends the previous value any more, run: dreamcore secret rotate --finish")
	return nil
}

func finishRotation(a *app, store *secret.Store) error {
	ended, err := store.EndRotation()
	if err != nil {
		return err
	}
	if !ended && !a.io.JSON {
		a.io.Stdout().Info("There is no rotation to finish: only one value is valid")
		return nil
	}
	return a.done(map[string]any{"name": secret.InternalSecret, "finished": ended}, "The previous value of the internal secret is no longer valid")
}

func newSecretDeleteCmd(a *app) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"rm"}, Short: "Delete a secret", Args: usageArgs(cobra.ExactArgs(1)),
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
	if ok, err := a.confirmed(ctx, yes, "Delete the secret "+name+"? This cannot be undone", "Nothing was deleted"); err != nil || !ok {
		return err
	}
	if err := store.Delete(name); err != nil {
		return err
	}
	return a.done(map[string]string{"deleted": name}, "secret "+name+" deleted")
}

// secrets opens the store of secrets. It creates the store only if create is set:
// clients look for a secret on machines that serve nothing.
func (a *app) secrets(create bool) (*secret.Store, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	return daemon.Secrets(cfg, a.env, create)
}
