package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

func newProjectsCmd(a *app) *cobra.Command {
	return a.group("projects", newProjectsListCmd(a), newProjectsShowCmd(a), newProjectsVersionsCmd(a), newProjectsDiffCmd(a), newProjectsRestoreCmd(a), newProjectsDeleteCmd(a))
}

// projectRef is the project of a command: its id and, if several users have it, the
// user.
type projectRef struct {
	id   dreamcore.ProjectID
	user dreamcore.UserID
}

// findProject returns the project with an id: of user or, if that is "", of its owner.
func findProject(ctx context.Context, id, user string, owner func(context.Context, dreamcore.ProjectID) (dreamcore.UserID, error)) (p projectRef, err error) {
	if p.id, err = dreamcore.ParseProjectID(id); err != nil {
		return p, err
	}
	if user != "" {
		p.user, err = dreamcore.ParseUserID(user)
	} else {
		p.user, err = owner(ctx, p.id)
	}
	return p, err
}

// ownerFlag adds the flag with the user of the project that a command works on.
func ownerFlag(c *cobra.Command, user *string) {
	c.Flags().StringVar(user, "user", "", "user the project belongs to, a UUID (default: the one who has it)")
}

// openProject is what a command works with: a project, and everything about projects.
type openProject struct {
	projectRef
	state    *daemon.State
	accounts *daemon.Accounts
}

// projectCommand returns a command whose first argument is a project.
func (a *app) projectCommand(path string, run func(ctx context.Context, p openProject, args []string) error) *cobra.Command {
	var user string
	c := a.command(path, func(ctx context.Context, args []string) error {
		return a.withState(func(s *daemon.State) error {
			return a.withAccounts(ctx, s, false, func(accounts *daemon.Accounts) error {
				p, err := findProject(ctx, args[0], user, accounts.Owner)
				if err != nil {
					return err
				}
				return run(ctx, openProject{p, s, accounts}, args[1:])
			})
		})
	})
	c.ValidArgsFunction = a.projectWords
	ownerFlag(c, &user)
	return c
}

// editorCommand is projectCommand with what reads and restores versions.
func (a *app) editorCommand(path string, run func(ctx context.Context, e *project.Editor, p openProject, version string) error) *cobra.Command {
	return a.projectCommand(path, func(ctx context.Context, p openProject, args []string) error {
		versions, err := a.openHistory(p.state)
		if err != nil {
			return err
		}
		return run(ctx, project.New(p.state.Volumes, versions), p, args[0])
	})
}

func newProjectsListCmd(a *app) *cobra.Command {
	var user string
	var p *account.Page
	c := a.command("projects list", func(ctx context.Context, _ []string) error {
		var id dreamcore.UserID
		if user != "" {
			var err error
			if id, err = dreamcore.ParseUserID(user); err != nil {
				return err
			}
		}
		return a.readAccounts(ctx, func(accounts *daemon.Accounts) error {
			list, err := accounts.Projects(ctx, id, *p)
			if err != nil {
				return err
			}
			return show.Projects(a.io, list)
		})
	})
	p = page(c)
	c.Flags().StringVar(&user, "user", "", "only of this user, a UUID")
	return c
}

func newProjectsShowCmd(a *app) *cobra.Command {
	return a.projectCommand("projects show", func(ctx context.Context, p openProject, _ []string) error {
		shown, err := p.accounts.Project(ctx, p.user, p.id)
		if err != nil {
			return err
		}
		return show.Project(a.io, shown)
	})
}

func newProjectsVersionsCmd(a *app) *cobra.Command {
	var limit int
	c := a.projectCommand("projects versions", func(ctx context.Context, p openProject, _ []string) error {
		versions, err := a.openHistory(p.state)
		if err != nil {
			return err
		}
		list, err := versions.Log(ctx, p.user, p.id, limit)
		if err != nil {
			return err
		}
		return show.Versions(a.io, list)
	})
	c.Flags().IntVar(&limit, "limit", 100, "number of versions, at most 1000")
	return c
}

func newProjectsDiffCmd(a *app) *cobra.Command {
	return a.editorCommand("projects diff", func(ctx context.Context, e *project.Editor, p openProject, version string) error {
		diff, err := e.Diff(ctx, p.user, p.id, version)
		if err != nil {
			return err
		}
		if a.io.JSON {
			return a.io.WriteJSON(map[string]string{"diff": diff})
		}
		_, err = term.WithoutControls(a.io.Out, a.io.OutTerminal).Write([]byte(strings.TrimSuffix(diff, "\n") + "\n"))
		return err
	})
}

func newProjectsRestoreCmd(a *app) *cobra.Command {
	return a.editorCommand("projects restore", func(ctx context.Context, e *project.Editor, p openProject, version string) error {
		restored, err := e.Restore(ctx, p.user, p.id, version)
		if err != nil {
			return err
		}
		return a.done(map[string]any{"restored_files": restored}, "restored to "+version, restored...)
	})
}

func newProjectsDeleteCmd(a *app) *cobra.Command {
	var yes bool
	var user string
	c := a.command("projects delete", func(ctx context.Context, args []string) error {
		p, err := findProject(ctx, args[0], user, a.projectOwner)
		if err != nil {
			return err
		}
		ok, err := a.confirmed(ctx, yes, "Delete project "+string(p.id)+" of user "+string(p.user)+" with all versions? This cannot be undone.", "nothing was deleted")
		if err != nil || !ok {
			return err
		}
		return change(ctx, a,
			func(s *control.Client) (account.Report, error) { return s.DeleteProject(ctx, p.user, p.id) },
			func(accounts *daemon.Accounts) (account.Report, error) {
				return accounts.DeleteProject(ctx, p.user, p.id)
			}, a.showDeletion)
	})
	c.ValidArgsFunction = a.projectWords
	yesFlag(c, &yes)
	ownerFlag(c, &user)
	return c
}
