package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

func newVolumeCmd(a *app) *cobra.Command {
	return group("volume", "Create and list volumes, copy files in and out", "", "",
		newVolumeCreateCmd(a), newVolumeListCmd(a), newVolumeLsCmd(a), newVolumeGetCmd(a), newVolumePutCmd(a), newVolumeRmCmd(a))
}

// withPlace opens a path of a volume for one call. create creates the project of
// the path if it is missing.
func (a *app) withPlace(ctx context.Context, volumeName, path string, create bool, do func(s *daemon.State, p *volume.Location) error) error {
	return a.withState(func(s *daemon.State) (err error) {
		p, err := s.Volumes.Locate(ctx, volumeName, path, create)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		return do(s, p)
	})
}

// openHistory opens the versions of projects.
func (a *app) openHistory(s *daemon.State) (*history.Store, error) {
	return s.OpenHistory(a.logger(s.Config.LogLevel))
}

func newVolumeCreateCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME", Short: "Create a volume", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.withState(func(s *daemon.State) error {
				created, err := s.Volumes.Create(args[0])
				if err != nil {
					return err
				}
				if !created && !a.io.JSON {
					a.io.Stdout().Info("volume " + args[0] + " exists")
					return nil
				}
				return a.done(map[string]any{"name": args[0], "created": created}, "volume "+args[0]+" created")
			})
		},
	}
}

type volumeRow struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

func newVolumeListCmd(a *app) *cobra.Command {
	volumes := list[volumeRow]{
		key: "volumes", columns: columns("NAME", "PATH"), cells: func(r volumeRow) []string { return []string{r.Name, r.Path} },
		empty: "There are no volumes yet", hint: "run: dreamcore setup",
	}
	return &cobra.Command{
		Use: "list", Short: "List volumes", Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return a.withState(func(s *daemon.State) error {
				infos, err := s.Volumes.List()
				if err != nil {
					return err
				}
				var rows []volumeRow
				for _, i := range infos {
					rows = append(rows, volumeRow{i.Name, i.Path})
				}
				return volumes.show(a.io, rows, nil)
			})
		},
	}
}

type fileRow struct {
	Name     string     `json:"name"`
	Type     string     `json:"type"`
	Size     int64      `json:"size"`
	Modified *time.Time `json:"modified,omitempty"`
}

func newFileRow(e tree.Entry) fileRow {
	r := fileRow{Name: e.Path, Type: fileType(e.Mode)}
	if !e.Modified.IsZero() {
		r.Modified = &e.Modified
	}
	if e.Mode.IsRegular() {
		r.Size = e.Size
	}
	return r
}

func fileType(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "dir"
	case m.IsRegular():
		return "file"
	case m&fs.ModeSymlink != 0:
		return "link"
	}
	return "other"
}

func (r fileRow) cells() []string {
	modified, size := "", ""
	if r.Modified != nil {
		modified = r.Modified.Local().Format(time.DateTime)
	}
	if r.Type == "file" {
		size = term.Size(r.Size)
	}
	return []string{r.Name, r.Type, modified, size}
}

func newVolumeLsCmd(a *app) *cobra.Command {
	files := list[fileRow]{key: "entries", columns: columns("~NAME", "TYPE", "MODIFIED", ">SIZE"), cells: fileRow.cells}
	return &cobra.Command{
		Use: "ls VOLUME [PATH]", Short: "List files of a volume", Args: usageArgs(cobra.RangeArgs(1, 2)),
		Example: "  dreamcore volume ls dreamcore-data users",
		RunE: func(c *cobra.Command, args []string) error {
			return a.withPlace(c.Context(), args[0], argument(args, 1, "/"), false, func(_ *daemon.State, p *volume.Location) error {
				entries, err := p.List()
				if err != nil {
					return err
				}
				var rows []fileRow
				for _, e := range entries {
					rows = append(rows, newFileRow(e))
				}
				return files.show(a.io, rows, nil)
			})
		},
	}
}

// owner returns the owner of files that are copied out of the stores: the user
// who runs this command, also with sudo.
func (a *app) owner() archive.Owner {
	if uid, gid, ok := config.Invoker(a.environ); ok {
		return archive.Owner{UID: uid, GID: gid}
	}
	return archive.Owner{UID: os.Geteuid(), GID: os.Getegid()}
}

// transfer runs a copy between a volume and the disk and shows its progress and
// its result on standard error.
func (a *app) transfer(text string, force bool, do func(t *archive.Transfer) (archive.Transferred, error)) error {
	out := a.io.Stderr()
	line := out.Progress(text)
	defer line.Stop()
	t := &archive.Transfer{Owner: a.owner(), Force: force}
	if out.Terminal() {
		t.Progress = func(files int, bytes int64) {
			line.Update(fmt.Sprintf("%s: %d files, %s", text, files, term.Size(bytes)))
		}
	}
	copied, err := do(t)
	line.Stop()
	if err != nil {
		return err
	}
	if a.io.JSON {
		return a.io.WriteJSON(copied)
	}
	for _, l := range copied.LeftOut {
		out.Warning(l)
	}
	out.Success(fmt.Sprintf("%d files copied", copied.Files), term.Size(copied.Bytes))
	return nil
}

func newVolumeGetCmd(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "get VOLUME REMOTE [LOCAL]", Short: "Copy a file or a directory out of a volume",
		Long: "Copies a file or a directory out of a volume to LOCAL (default: the working\n" +
			"directory). LOCAL - is standard output, for one file. Links and special files are\n" +
			"left out.",
		Example: "  dreamcore volume get dreamcore-data users/UUID/projects/UUID game",
		Args:    usageArgs(cobra.RangeArgs(2, 3)),
		RunE: func(c *cobra.Command, args []string) error {
			local := argument(args, 2, ".")
			return a.withPlace(c.Context(), args[0], args[1], false, func(_ *daemon.State, p *volume.Location) error {
				if local == "-" {
					return new(archive.Transfer).GetStream(p, a.io.Out)
				}
				return a.transfer("Copying to "+local, force, func(t *archive.Transfer) (archive.Transferred, error) {
					return t.Get(c.Context(), p, path.Base(path.Clean("/"+args[1])), local)
				})
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "replace existing files")
	return c
}

func newVolumePutCmd(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "put VOLUME LOCAL [REMOTE]", Short: "Copy a file or a directory into a volume",
		Long: "Copies a file or a directory into a volume. A REMOTE that ends in / is the directory\n" +
			"to copy into. LOCAL - is standard input, for one file. In a project, either all\n" +
			"files are copied or none, and a version is recorded. Links are left out.",
		Example: "  dreamcore volume put dreamcore-global skills/threejs /.claude/skills/",
		Args:    usageArgs(cobra.RangeArgs(2, 3)),
		RunE: func(c *cobra.Command, args []string) error {
			remote, err := destination(c, args[1], argument(args, 2, "/"))
			if err != nil {
				return err
			}
			return a.withPlace(c.Context(), args[0], remote, true, func(s *daemon.State, p *volume.Location) error {
				return put(c.Context(), a, s, p, args[1], force)
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "replace existing files")
	return c
}

// destination returns the path of the copy of local: below remote if that ends
// in a slash.
func destination(c *cobra.Command, local, remote string) (string, error) {
	if !strings.HasSuffix(remote, "/") {
		return remote, nil
	}
	if local == "-" {
		return "", misuse(c, errors.New("standard input has no name: give the name of the file in REMOTE"))
	}
	abs, err := filepath.Abs(local)
	return remote + filepath.Base(abs), err
}

func put(ctx context.Context, a *app, s *daemon.State, p *volume.Location, local string, force bool) error {
	text := "Copying " + local
	if local == "-" {
		text = "Copying standard input"
	}
	return a.transfer(text, force, func(t *archive.Transfer) (archive.Transferred, error) {
		t.Apply = func(ctx context.Context, user dreamcore.UserID, id dreamcore.ProjectID, changes []project.Change, message string) error {
			return a.withProject(ctx, s, user, id, func(projects *project.Editor) error {
				_, err := projects.Apply(ctx, user, id, changes, message)
				return err
			})
		}
		if local == "-" {
			return t.PutStream(ctx, p, a.io.Input(ctx))
		}
		return t.Put(ctx, p, local)
	})
}

func newVolumeRmCmd(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "rm VOLUME PATH", Short: "Remove a file of a volume, or a directory with -r",
		Long: "Removes a file of a volume, or a directory with its contents. In a project this\n" +
			"records a version, so that it can be undone.",
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			err := a.withPlace(c.Context(), args[0], args[1], false, func(s *daemon.State, p *volume.Location) error {
				switch {
				case p.Root == nil || p.Path == ".":
					return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "a whole project or volume cannot be removed", Hint: "name a path in it: dreamcore volume ls " + args[0] + " " + args[1]}
				case p.Project == "":
					return tree.Remove(p.Root, p.Path, all)
				}
				return a.withProject(c.Context(), s, p.User, p.Project, func(projects *project.Editor) error {
					return projects.Remove(c.Context(), p.User, p.Project, p.Path, all)
				})
			})
			if err != nil {
				return err
			}
			return a.done(map[string]any{"removed": args[1]}, args[1]+" removed")
		},
	}
	c.Flags().BoolVarP(&all, "recursive", "r", false, "remove a directory with its contents")
	return c
}

// withProject locks a project for one change.
func (a *app) withProject(ctx context.Context, s *daemon.State, user dreamcore.UserID, id dreamcore.ProjectID, do func(projects *project.Editor) error) error {
	versions, err := a.openHistory(s)
	if err != nil {
		return err
	}
	projects := project.New(s.Volumes, versions)
	unlock, err := projects.Lock(ctx, user, id)
	if err != nil {
		return err
	}
	defer unlock()
	return do(projects)
}
