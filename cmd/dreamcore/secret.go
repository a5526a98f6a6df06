package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

func newSecretCmd(a *app) *cobra.Command {
	return a.group("secret", newSecretCreateCmd(a), newSecretListCmd(a), newSecretShowCmd(a), newSecretRotateCmd(a), newSecretDeleteCmd(a))
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

// withSecrets returns what runs a command on the store of secrets.
func (a *app) withSecrets(do func(ctx context.Context, store *secret.Store, args []string) error) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		store, err := a.secrets(false)
		if err != nil {
			return err
		}
		return do(ctx, store, args)
	}
}

func newSecretCreateCmd(a *app) *cobra.Command {
	var force bool
	c := a.command("secret create", func(ctx context.Context, args []string) error {
		name, values, err := secret.ParseAssignments(args, a.io.Input(ctx))
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
	})
	c.Flags().BoolVar(&force, "force", false, "replace an existing secret")
	return c
}

func newSecretListCmd(a *app) *cobra.Command {
	return a.command("secret list", a.withSecrets(func(_ context.Context, store *secret.Store, _ []string) error {
		infos, err := store.List()
		if err != nil {
			return err
		}
		return show.Secrets(a.io, infos)
	}))
}

func newSecretShowCmd(a *app) *cobra.Command {
	return a.command("secret show", a.withSecrets(func(_ context.Context, store *secret.Store, args []string) error {
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
		return show.SecretValues(a.io, values)
	}))
}

func newSecretRotateCmd(a *app) *cobra.Command {
	var finish bool
	c := a.command("secret rotate", a.withSecrets(func(_ context.Context, store *secret.Store, _ []string) error {
		if finish {
			ended, err := store.EndRotation()
			if err != nil {
				return err
			}
			return show.FinishedRotation(a.io, ended)
		}
		value, err := store.RotateInternal()
		if err != nil {
			return err
		}
		return show.RotatedSecret(a.io, value)
	}))
	c.Flags().BoolVar(&finish, "finish", false, "invalidate the value before the last rotation")
	return c
}

func newSecretDeleteCmd(a *app) *cobra.Command {
	var yes bool
	c := a.command("secret delete", a.withSecrets(func(ctx context.Context, store *secret.Store, args []string) error {
		name := args[0]
		if ok, err := a.confirmed(ctx, yes, "Delete the secret "+name+"? This cannot be undone", "Nothing was deleted"); err != nil || !ok {
			return err
		}
		if err := store.Delete(name); err != nil {
			return err
		}
		return a.done(map[string]string{"deleted": name}, "secret "+name+" deleted")
	}))
	yesFlag(c, &yes)
	return c
}
