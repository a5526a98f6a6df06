package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
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
		line := a.io.Stderr().Progress(text)
		defer line.Stop()
		owner := a.owner()
		opts := archive.Options{StateDir: s.Config.State, Patience: patience, Owner: &owner}
		if a.io.Stderr().Terminal() {
			opts.Progress = func(p archive.Progress) {
				if p.Total > 0 {
					line.Update(fmt.Sprintf("%s: project %d of %d", text, p.Done, p.Total))
					return
				}
				line.Update(fmt.Sprintf("%s: %d projects", text, p.Done))
			}
		}
		report, err := do(archive.New(s.Volumes, versions, opts))
		line.Stop()
		if showErr := showReport(a, report, err); err == nil {
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

// maxShown is the number of projects up to which the table has those without a note.
const maxShown = 50

func showReport(a *app, r archive.Report, failed error) error {
	if a.io.JSON {
		if failed != nil && len(r.Projects) == 0 {
			return nil
		}
		if r.Projects == nil {
			r.Projects = []archive.Result{}
		}
		return a.io.WriteJSON(r)
	}
	table := term.Table{Columns: columns("PROJECT", "USER", "STATE", ">FILES", ">SIZE", ">VERSIONS", "~NOTE")}
	counts := map[string]int{}
	for _, p := range r.Projects {
		counts[p.State]++
		note := cmp.Or(p.Reason, strings.Join(p.Notes, "; "))
		if note == "" && len(r.Projects) > maxShown {
			continue
		}
		table.Rows = append(table.Rows, term.Row(string(p.Project), string(p.User), p.State, fmt.Sprint(p.Files), term.Size(p.Bytes), fmt.Sprint(p.Versions), note))
	}
	out := a.io.Stdout()
	if len(table.Rows) > 0 {
		out.Table(table)
	}
	for _, n := range r.Notes {
		a.io.Stderr().Warning(n)
	}
	if failed == nil {
		text := fmt.Sprintf("%d projects copied", counts[archive.Copied])
		var more []string
		for _, s := range []string{archive.Present, archive.Skipped, archive.Failed} {
			if counts[s] > 0 {
				more = append(more, fmt.Sprintf("%d %s", counts[s], s))
			}
		}
		out.Success(text, more...)
	}
	return nil
}

func newImportCmd(a *app) *cobra.Command {
	var users map[string]string
	var force bool
	c := &cobra.Command{
		Use: "import DIR|FILE.tar[.gz|.zst]", Short: "Import projects from a volume of Modal or from an export",
		Long: "Imports users/UUID/projects/UUID/… with the versions in each project's .git. Every\n" +
			"project is verified by hash and imported completely or not at all. If the command is\n" +
			"interrupted, run it again: it continues and skips the projects that are imported.\n\n" +
			"From a .git only objects and references are read, each object is checked, and nothing\n" +
			"is run. Of a damaged history, only the versions before the fault are imported.",
		Example: "  modal volume get my-volume users old && sudo dreamcore import old\n" +
			"  sudo dreamcore import --user-map OLDUUID=NEWUUID game.tar.zst",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			opts := archive.ImportOptions{Users: map[dreamcore.UserID]dreamcore.UserID{}, Force: force}
			for from, to := range users {
				old, err := dreamcore.ParseUserID(from)
				if err != nil {
					return err
				}
				if opts.Users[old], err = dreamcore.ParseUserID(to); err != nil {
					return err
				}
			}
			return a.withArchive(0, "Importing", func(d *archive.Depot) (archive.Report, error) {
				return d.Import(c.Context(), args[0], opts)
			})
		},
	}
	c.Flags().StringToStringVar(&users, "user-map", nil, "assign the projects of user OLD to NEW: OLD=NEW, separated by commas")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace the files of existing projects; their versions stay")
	return c
}

func newExportCmd(a *app) *cobra.Command {
	var user string
	var all, force bool
	c := &cobra.Command{
		Use: "export [PROJECT] DEST", Short: "Export projects with their versions",
		Long: "Exports projects to DEST: a tar file if the name ends in .tar, .tar.gz or .tar.zst,\n" +
			"otherwise a directory. Each project has its versions in .git, which stock git reads.\n" +
			"dreamcore import imports it again.",
		Example: "  sudo dreamcore export PROJECT game.tar.zst\n  sudo dreamcore export --all everything",
		Args:    usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(c *cobra.Command, args []string) error {
			scope, err := exportScope(c, args, user, all)
			if err != nil {
				return err
			}
			return a.withArchive(0, "Exporting", func(d *archive.Depot) (archive.Report, error) {
				return d.Export(c.Context(), scope, args[len(args)-1], force)
			})
		},
	}
	c.Flags().StringVar(&user, "user", "", "the projects of this user")
	c.Flags().BoolVar(&all, "all", false, "all projects")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace an existing file")
	return c
}

func exportScope(c *cobra.Command, args []string, user string, all bool) (scope archive.Scope, err error) {
	if (len(args) == 1) != (user != "" || all) || user != "" && all {
		return scope, misuse(c, errors.New("name one project, or --user UUID, or --all; and the destination"))
	}
	if user != "" {
		if scope.User, err = dreamcore.ParseUserID(user); err != nil {
			return scope, err
		}
	}
	if len(args) == 2 {
		scope.Project, err = dreamcore.ParseProjectID(args[0])
	}
	return scope, err
}

func newBackupCmd(a *app) *cobra.Command {
	var opts archive.BackupOptions
	var patience time.Duration
	c := &cobra.Command{
		Use: "backup FILE.tar[.gz|.zst]", Short: "Back up everything to one file, also while serving",
		Long: "Writes projects, versions, conversations, volumes and the configuration to one\n" +
			"file, with a hash of each. For a project that stays in use, the newest version is\n" +
			"saved, and the report says so. The file appears only when it is complete.",
		Example: "  sudo dreamcore backup --with-secrets /backup/dreamcore.tar.zst",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withArchive(patience, "Backing up", func(d *archive.Depot) (archive.Report, error) {
				return d.Backup(c.Context(), args[0], opts)
			})
		},
	}
	c.Flags().BoolVar(&opts.Secrets, "with-secrets", false, "include the sealed secrets")
	c.Flags().BoolVar(&opts.Identity, "with-identity", false, "include the identity that opens the secrets: keep such a file like a key")
	c.Flags().BoolVar(&opts.Journals, "with-journals", false, "include the event logs of jobs")
	c.Flags().BoolVarP(&opts.Force, "force", "f", false, "replace an existing file")
	c.Flags().DurationVar(&patience, "patience", archive.DefaultPatience, "how long to wait for a project that is in use")
	return c
}

func newRestoreCmd(a *app) *cobra.Command {
	var check, force bool
	c := &cobra.Command{
		Use: "restore FILE.tar[.gz|.zst]", Short: "Restore a backup, or check it",
		Long: "Checks a backup against its manifest, then restores everything. Without --force, it\n" +
			"refuses a state directory that has projects, or secrets if the backup has some too.",
		Example: "  dreamcore restore --check /backup/dreamcore.tar.zst\n" +
			"  sudo dreamcore restore /backup/dreamcore.tar.zst",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if check {
				return checkBackup(c.Context(), a, args[0])
			}
			return a.withArchive(0, "Restoring", func(d *archive.Depot) (archive.Report, error) {
				return d.Restore(c.Context(), args[0], force)
			})
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only check the backup against its manifest")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace existing files; versions of projects stay")
	return c
}

func checkBackup(ctx context.Context, a *app, name string) error {
	line := a.io.Stderr().Progress("Checking " + name)
	defer line.Stop()
	contents, err := archive.Check(ctx, name)
	line.Stop()
	if err != nil {
		return err
	}
	return a.done(contents, "the backup is complete", fmt.Sprintf("%d projects", contents.Projects), term.Size(contents.Bytes), "created "+contents.Created.Local().Format(time.DateTime))
}
