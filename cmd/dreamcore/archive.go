package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
)

// withArchive opens what moves projects in and out, shows how that goes on,
// and what has become of them.
func (a *app) withArchive(patience time.Duration, text string, f func(*archive.Depot) (archive.Report, error)) error {
	s, versions, err := a.openDepot()
	if err != nil {
		return err
	}
	defer s.Close()
	line := a.io.Stderr().Progress(text)
	defer line.Stop()
	terminal := a.io.Stderr().Terminal()
	depot := archive.New(s.Volumes, versions, archive.Options{StateDir: s.Config.State, Patience: patience, Owner: a.owner(), Progress: func(p archive.Progress) {
		switch {
		case !terminal:
		case p.Total > 0:
			line.Update(fmt.Sprintf("%s: project %d of %d", text, p.Done, p.Total))
		default:
			line.Update(fmt.Sprintf("%s: %d projects", text, p.Done))
		}
	}})
	report, err := f(depot)
	line.Stop()
	if showErr := showReport(a, report, err); err == nil {
		err = showErr
	}
	if n := report.Failures(); err == nil && n > 0 {
		err = &dreamcore.Error{Code: dreamcore.CodeInternal, Message: fmt.Sprintf("%d of %d projects are not where they should be", n, len(report.Projects)), Hint: "the report says why; run it again when that is mended: what is done is left alone"}
	}
	return err
}

// maxShown is how many projects a table names that went well.
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
	table := term.Table{Columns: []term.Column{{Title: "PROJECT"}, {Title: "USER"}, {Title: "STATE"}, {Title: "FILES", Right: true}, {Title: "SIZE", Right: true}, {Title: "VERSIONS", Right: true}, {Title: "NOTE", Flex: true}}}
	counts := map[string]int{}
	for _, p := range r.Projects {
		counts[p.State]++
		note := p.Reason
		if note == "" {
			note = strings.Join(p.Notes, "; ")
		}
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
		Use: "import DIR|FILE.tar[.gz|.zst]", Short: "Take in projects: an old backend's volume, or an export",
		Long: "Takes in users/UUID/projects/UUID/… with the versions in each project's .git.\n" +
			"Every project is verified by hash, and is here whole or not at all. Run again, it\n" +
			"goes on where it was ended, and leaves alone what it has taken in before.\n\n" +
			"Of a .git only objects and references are read, each object is checked, and nothing\n" +
			"is run. Of a history with a fault the versions before the fault are taken.",
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
	c.Flags().StringToStringVar(&users, "user-map", nil, "whose projects become whose: OLD=NEW, several by commas")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace the files of projects that are here; their versions stay")
	return c
}

func newExportCmd(a *app) *cobra.Command {
	var user string
	var all, force bool
	c := &cobra.Command{
		Use: "export [PROJECT] DEST", Short: "Copy projects out, with their versions",
		Long: "Copies projects to DEST: a tar when it is named .tar, .tar.gz or .tar.zst, else a\n" +
			"directory. Each has its versions in .git, as stock git reads them. import takes it.",
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
	c.Flags().BoolVarP(&force, "force", "f", false, "replace a file that exists")
	return c
}

func exportScope(c *cobra.Command, args []string, user string, all bool) (scope archive.Scope, err error) {
	if (len(args) == 1) != (user != "" || all) || user != "" && all {
		return scope, misuse(c, errors.New("name one project, or --user UUID, or --all; and where it goes"))
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
		Use: "backup FILE.tar[.gz|.zst]", Short: "Write everything to one file, while serving",
		Long: "Writes projects, versions, conversations, volumes and the configuration to one\n" +
			"file, with a hash of each. A project that stays in use is taken from its newest\n" +
			"version, and the report says so. The file is there when it is whole.",
		Example: "  sudo dreamcore backup --with-secrets /backup/dreamcore.tar.zst",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withArchive(patience, "Backing up", func(d *archive.Depot) (archive.Report, error) {
				return d.Backup(c.Context(), args[0], opts)
			})
		},
	}
	c.Flags().BoolVar(&opts.Secrets, "with-secrets", false, "the sealed secrets too")
	c.Flags().BoolVar(&opts.Identity, "with-identity", false, "what opens the secrets too: keep such a file like a key")
	c.Flags().BoolVar(&opts.Journals, "with-journals", false, "the event logs of jobs too")
	c.Flags().BoolVarP(&opts.Force, "force", "f", false, "replace a file that exists")
	c.Flags().DurationVar(&patience, "patience", archive.DefaultPatience, "how long a project in use is waited for")
	return c
}

func newRestoreCmd(a *app) *cobra.Command {
	var check, force bool
	c := &cobra.Command{
		Use: "restore FILE.tar[.gz|.zst]", Short: "Put a backup in place, or check it",
		Long: "Checks a backup against its manifest, then puts everything in place. A state\n" +
			"directory that has projects, or secrets where the backup has some, is refused\n" +
			"without --force.",
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
	c.Flags().BoolVar(&check, "check", false, "only compare the backup with its manifest")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace what is here; versions of projects stay")
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
	if a.io.JSON {
		return a.io.WriteJSON(contents)
	}
	a.io.Stdout().Success("the backup is whole", fmt.Sprintf("%d projects", contents.Projects), term.Size(contents.Bytes), "made "+contents.Created.Local().Format(time.DateTime))
	return nil
}
