package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
)

// withArchive opens the depot that moves projects in and out, and shows the
// progress and the result.
func (a *app) withArchive(patience time.Duration, text string, do func(*archive.Depot) (archive.Report, error)) error {
	return a.withState(func(s *daemon.State) error {
		versions, err := a.openHistory(s)
		if err != nil {
			return err
		}
		line, update := show.Copy(a.io, text, "project")
		defer line.Stop()
		owner := a.owner()
		opts := archive.Options{StateDir: s.Config.State, Patience: patience, Owner: &owner, Progress: update}
		report, err := do(archive.New(s.Volumes, versions, opts))
		line.Stop()
		if showErr := show.Moved(a.io, report, err); err == nil {
			err = showErr
		}
		if n := report.Failures(); err == nil && n > 0 {
			err = &dreamcore.Error{
				Code: dreamcore.CodeInternal, Message: fmt.Sprintf("%d of %d projects have failed", n, len(report.Projects)),
				Hint: "the report has the reasons; fix them and run the command again: finished projects are skipped",
			}
		}
		return err
	})
}

func newImportCmd(a *app) *cobra.Command {
	var users map[string]string
	var force bool
	c := a.command("import", func(ctx context.Context, args []string) error {
		owners, err := archive.ParseUserMap(users)
		if err != nil {
			return err
		}
		opts := archive.ImportOptions{Users: owners, Force: force}
		return a.withArchive(0, "Importing", func(d *archive.Depot) (archive.Report, error) {
			return d.Import(ctx, args[0], opts)
		})
	})
	c.Flags().StringToStringVar(&users, "user-map", nil, "assign the projects of user OLD to NEW: OLD=NEW, separated by commas")
	c.Flags().BoolVar(&force, "force", false, "replace the files of existing projects; their versions stay")
	return c
}

func newExportCmd(a *app) *cobra.Command {
	var user string
	var all, force bool
	var c *cobra.Command
	c = a.command("export", func(ctx context.Context, args []string) error {
		scope, err := archive.ParseScope(args[:len(args)-1], user, all)
		if err != nil {
			return commandline.Misuse(c, err)
		}
		if scope.Project != "" && scope.User == "" {
			if scope.User, err = a.projectOwner(ctx, scope.Project); err != nil {
				return err
			}
		}
		return a.withArchive(0, "Exporting", func(d *archive.Depot) (archive.Report, error) {
			return d.Export(ctx, scope, args[len(args)-1], force)
		})
	})
	c.ValidArgsFunction = a.projectWords
	c.Flags().StringVar(&user, "user", "", "the projects of this user, or the user of PROJECT")
	c.Flags().BoolVar(&all, "all", false, "all projects")
	c.Flags().BoolVar(&force, "force", false, "replace an existing file")
	return c
}

func newBackupCmd(a *app) *cobra.Command {
	var opts archive.BackupOptions
	var patience time.Duration
	c := a.command("backup", func(ctx context.Context, args []string) error {
		return a.withArchive(patience, "Backing up", func(d *archive.Depot) (archive.Report, error) {
			return d.Backup(ctx, args[0], opts)
		})
	})
	c.Flags().BoolVar(&opts.Secrets, "with-secrets", false, "include the sealed secrets")
	c.Flags().BoolVar(&opts.Identity, "with-identity", false, "include the identity that opens the secrets: keep such a file like a key")
	c.Flags().BoolVar(&opts.Journals, "with-journals", false, "include the event logs of jobs")
	c.Flags().BoolVar(&opts.Force, "force", false, "replace an existing file")
	c.Flags().DurationVar(&patience, "patience", archive.DefaultPatience, "how long to wait for a project that is in use")
	return c
}

func newRestoreCmd(a *app) *cobra.Command {
	var check, force bool
	c := a.command("restore", func(ctx context.Context, args []string) error {
		if check {
			return show.CheckedBackup(ctx, a.io, args[0])
		}
		return a.withArchive(0, "Restoring", func(d *archive.Depot) (archive.Report, error) {
			return d.Restore(ctx, args[0], force)
		})
	})
	c.Flags().BoolVar(&check, "check", false, "only check the backup against its manifest")
	c.Flags().BoolVar(&force, "force", false, "replace existing files; versions of projects stay")
	return c
}
