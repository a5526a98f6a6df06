package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
)

// readAccounts opens users and projects for one call that changes nothing, also while
// a service runs.
func (a *app) readAccounts(ctx context.Context, do func(*daemon.Accounts) error) error {
	return a.withState(func(s *daemon.State) error { return a.withAccounts(ctx, s, false, do) })
}

func (a *app) withAccounts(ctx context.Context, s *daemon.State, write bool, do func(*daemon.Accounts) error) error {
	accounts, err := s.OpenAccounts(write, a.runningSandboxes(ctx), a.logger(s.Config.LogLevel))
	if err != nil {
		return err
	}
	return errors.Join(do(accounts), accounts.Close())
}

// runningSandboxes returns the sandboxes of the running service, or nil.
func (a *app) runningSandboxes(ctx context.Context) account.Sandboxes {
	var list daemon.ListedSandboxes
	err := a.withService(func(c *control.Client) (err error) {
		list, err = c.List(ctx)
		return err
	})
	if err == nil {
		return list
	}
	if dreamcore.ReasonOf(err) != control.ReasonNotRunning {
		a.io.Stderr().Warning("sandboxes are not shown: the running service does not answer", err.Error())
	}
	return nil
}

// change asks the running service for a change or, if none runs, makes it on the state
// directory. It shows the result.
func change[R any](ctx context.Context, a *app, online func(*control.Client) (R, error), offline func(*daemon.Accounts) (R, error), result func(R) error) error {
	var r R
	err := a.withService(func(c *control.Client) (err error) {
		r, err = online(c)
		return err
	})
	if dreamcore.ReasonOf(err) == control.ReasonNotRunning {
		err = a.withState(func(s *daemon.State) error {
			return a.withAccounts(ctx, s, true, func(accounts *daemon.Accounts) (err error) {
				r, err = offline(accounts)
				return err
			})
		})
	}
	if err != nil {
		return err
	}
	return result(r)
}

// projectOwner returns the user who has a project of the state directory.
func (a *app) projectOwner(ctx context.Context, project dreamcore.ProjectID) (user dreamcore.UserID, err error) {
	err = a.readAccounts(ctx, func(accounts *daemon.Accounts) error {
		user, err = accounts.Owner(ctx, project)
		return err
	})
	return user, err
}

// page adds the flags of a list.
func page(c *cobra.Command) *account.Page {
	p := &account.Page{}
	c.Flags().IntVar(&p.Limit, "limit", 100, fmt.Sprintf("number of rows, at most %d", dreamcore.MaxPage))
	c.Flags().StringVar(&p.After, "after", "", "continue after this row, as the list before said")
	return p
}

func newUsersCmd(a *app) *cobra.Command {
	return a.group("users", newUsersListCmd(a), newUsersShowCmd(a), newUsersDeleteCmd(a), newUsersBlockCmd(a), newUsersUnblockCmd(a))
}

func newUsersListCmd(a *app) *cobra.Command {
	var p *account.Page
	c := a.command("users list", func(ctx context.Context, _ []string) error {
		return a.readAccounts(ctx, func(accounts *daemon.Accounts) error {
			list, err := accounts.Users(ctx, *p)
			if err != nil {
				return err
			}
			return show.Users(a.io, list)
		})
	})
	p = page(c)
	return c
}

// userCommand returns a command whose argument is a user.
func (a *app) userCommand(path string, run func(ctx context.Context, user dreamcore.UserID) error) *cobra.Command {
	return a.command(path, func(ctx context.Context, args []string) error {
		id, err := dreamcore.ParseUserID(args[0])
		if err != nil {
			return err
		}
		return run(ctx, id)
	})
}

func newUsersShowCmd(a *app) *cobra.Command {
	return a.userCommand("users show", func(ctx context.Context, id dreamcore.UserID) error {
		return a.readAccounts(ctx, func(accounts *daemon.Accounts) error {
			u, err := accounts.User(ctx, id)
			if err != nil {
				return err
			}
			return show.User(a.io, u)
		})
	})
}

func newUsersDeleteCmd(a *app) *cobra.Command {
	var yes bool
	c := a.userCommand("users delete", func(ctx context.Context, id dreamcore.UserID) error {
		ok, err := a.confirmed(ctx, yes, "Delete user "+string(id)+" with all games, versions and logs? This cannot be undone.", "nothing was deleted")
		if err != nil || !ok {
			return err
		}
		return change(ctx, a,
			func(s *control.Client) (account.Report, error) { return s.DeleteUser(ctx, id) },
			func(accounts *daemon.Accounts) (account.Report, error) { return accounts.DeleteUser(ctx, id) }, a.showDeletion)
	})
	yesFlag(c, &yes)
	return c
}

func (a *app) showDeletion(r account.Report) error { return show.Deletion(a.io, r) }
func (a *app) showBlocked(b account.Blocked) error { return show.Blocked(a.io, b) }

func newUsersBlockCmd(a *app) *cobra.Command {
	var reason string
	c := a.userCommand("users block", func(ctx context.Context, id dreamcore.UserID) error {
		return change(ctx, a,
			func(s *control.Client) (account.Blocked, error) { return s.Block(ctx, id, reason) },
			func(accounts *daemon.Accounts) (account.Blocked, error) { return accounts.Block(ctx, id, reason) }, a.showBlocked)
	})
	c.Flags().StringVar(&reason, "reason", "", "why, for operators; players never see it")
	return c
}

func newUsersUnblockCmd(a *app) *cobra.Command {
	return a.userCommand("users unblock", func(ctx context.Context, id dreamcore.UserID) error {
		return change(ctx, a,
			func(s *control.Client) (account.Blocked, error) { return s.Unblock(ctx, id) },
			func(accounts *daemon.Accounts) (account.Blocked, error) { return accounts.Unblock(id) }, a.showBlocked)
	})
}
