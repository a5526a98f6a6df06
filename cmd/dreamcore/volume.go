package main

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

func newVolumeCmd(a *app) *cobra.Command {
	return a.group("volume", newVolumeCreateCmd(a), newVolumeListCmd(a), newVolumeGetCmd(a), newVolumePutCmd(a), newVolumeDeleteCmd(a))
}

// withPlace opens a path of a volume for one call. create creates the project of
// the path if it is missing.
func (a *app) withPlace(ctx context.Context, volumeName, path string, create bool, do func(s *daemon.State, p *volume.Location) error) error {
	return a.withState(func(s *daemon.State) error {
		p, err := s.Volumes.Locate(ctx, volumeName, path, create)
		if err != nil {
			return err
		}
		return errors.Join(do(s, p), p.Close())
	})
}

// openHistory opens the versions of projects.
func (a *app) openHistory(s *daemon.State) (*history.Store, error) {
	return s.OpenHistory(a.logger(s.Config.LogLevel))
}

func newVolumeCreateCmd(a *app) *cobra.Command {
	return a.command("volume create", func(_ context.Context, args []string) error {
		return a.withState(func(s *daemon.State) error {
			created, err := s.Volumes.Create(args[0])
			if err != nil {
				return err
			}
			return a.show(map[string]any{"name": args[0], "created": created}, func(p *term.Printer) {
				if created {
					p.Success("volume " + args[0] + " created")
				} else {
					p.Info("volume " + args[0] + " exists")
				}
			})
		})
	})
}

func newVolumeListCmd(a *app) *cobra.Command {
	return a.command("volume list", func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			return a.withState(func(s *daemon.State) error {
				volumes, err := s.Volumes.List()
				if err != nil {
					return err
				}
				return show.Volumes(a.io, volumes)
			})
		}
		return a.withPlace(ctx, args[0], argument(args, 1, "/"), false, func(_ *daemon.State, p *volume.Location) error {
			entries, err := p.List()
			if err != nil {
				return err
			}
			return show.Files(a.io, entries)
		})
	})
}

// owner returns the owner of files that are copied out of the stores: the user
// who runs this command, also with sudo.
func (a *app) owner() archive.Owner {
	if uid, gid, ok := config.Invoker(a.environ); ok {
		return archive.Owner{UID: uid, GID: gid}
	}
	return archive.Owner{UID: os.Geteuid(), GID: os.Getegid()}
}

// transfer runs a copy between a volume and the disk, and shows it.
func (a *app) transfer(text string, force bool, do func(t *archive.Transfer) (archive.Transferred, error)) error {
	return show.Transfer(a.io, text, &archive.Transfer{Owner: a.owner(), Force: force}, do)
}

func newVolumeGetCmd(a *app) *cobra.Command {
	var force bool
	c := a.command("volume get", func(ctx context.Context, args []string) error {
		local := argument(args, 2, ".")
		return a.withPlace(ctx, args[0], args[1], false, func(_ *daemon.State, p *volume.Location) error {
			if local == "-" {
				line, update := show.Copy(a.io, "Copying "+args[1], "file")
				defer line.Stop()
				t := &archive.Transfer{Progress: update}
				return t.GetStream(ctx, p, a.io.Out)
			}
			return a.transfer("Copying to "+local, force, func(t *archive.Transfer) (archive.Transferred, error) {
				return t.Get(ctx, p, path.Base(path.Clean("/"+args[1])), local)
			})
		})
	})
	c.Flags().BoolVar(&force, "force", false, "replace existing files")
	return c
}

func newVolumePutCmd(a *app) *cobra.Command {
	var force bool
	var c *cobra.Command
	c = a.command("volume put", func(ctx context.Context, args []string) error {
		remote, err := destination(c, args[1], argument(args, 2, "/"))
		if err != nil {
			return err
		}
		return a.withPlace(ctx, args[0], remote, true, func(s *daemon.State, p *volume.Location) error {
			return put(ctx, a, s, p, args[1], force)
		})
	})
	c.Flags().BoolVar(&force, "force", false, "replace existing files")
	return c
}

// destination returns the path of the copy of local: below remote if that ends
// in a slash.
func destination(c *cobra.Command, local, remote string) (string, error) {
	if !strings.HasSuffix(remote, "/") {
		return remote, nil
	}
	if local == "-" {
		return "", commandline.Misuse(c, errors.New("standard input has no name: give the name of the file in REMOTE"))
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

func newVolumeDeleteCmd(a *app) *cobra.Command {
	var all bool
	c := a.command("volume delete", func(ctx context.Context, args []string) error {
		err := a.withPlace(ctx, args[0], args[1], false, func(s *daemon.State, p *volume.Location) error {
			switch {
			case p.Root == nil || p.Path == ".":
				return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "a whole project or volume cannot be removed", Hint: "name a path in it: dreamcore volume ls " + args[0] + " " + args[1]}
			case p.Project == "":
				return tree.Remove(p.Root, p.Path, all)
			}
			return a.withProject(ctx, s, p.User, p.Project, func(projects *project.Editor) error {
				return projects.Remove(ctx, p.User, p.Project, p.Path, all)
			})
		})
		if err != nil {
			return err
		}
		return a.done(map[string]any{"removed": args[1]}, args[1]+" removed")
	})
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
