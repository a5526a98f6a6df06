package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/pull"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
)

func newImageCmd(a *app) *cobra.Command {
	return a.group("image", newImagePullCmd(a), newImageListCmd(a), newImagePruneCmd(a))
}

// withImages opens the store of images for one call.
func (a *app) withImages(s *daemon.State, do func(images *image.Store) error) (err error) {
	images, err := s.OpenImages(a.logger(s.Config.LogLevel))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	return do(images)
}

// imageCommand returns a command on the store of images.
func (a *app) imageCommand(path string, run func(ctx context.Context, s *daemon.State, images *image.Store, args []string) error) *cobra.Command {
	return a.command(path, func(ctx context.Context, args []string) error {
		return a.withState(func(s *daemon.State) error {
			return a.withImages(s, func(images *image.Store) error { return run(ctx, s, images, args) })
		})
	})
}

func newImagePullCmd(a *app) *cobra.Command {
	return a.imageCommand("image pull", func(ctx context.Context, s *daemon.State, images *image.Store, args []string) error {
		if err := s.CheckDisk(); err != nil {
			return err
		}
		img, unpacked, err := pull.Image(ctx, a.io.Human(), images, args[0])
		if err != nil {
			return err
		}
		return show.Pulled(a.io, args[0], img, unpacked)
	})
}

// pull is the daemon.Puller of commands for which an image is only a prerequisite.
// It prints on standard error.
func (a *app) pull(ctx context.Context, images *image.Store, ref string) (image.Image, error) {
	img, _, err := pull.Image(ctx, a.io.Stderr(), images, ref)
	return img, err
}

func newImageListCmd(a *app) *cobra.Command {
	return a.imageCommand("image list", func(_ context.Context, _ *daemon.State, images *image.Store, _ []string) error {
		stored, err := images.List()
		if err != nil {
			return err
		}
		return show.Images(a.io, stored)
	})
}

func newImagePruneCmd(a *app) *cobra.Command {
	var o image.PruneOptions
	var yes bool
	c := a.imageCommand("image prune", func(ctx context.Context, _ *daemon.State, images *image.Store, _ []string) error {
		ok, err := a.confirmed(ctx, yes || !o.All, "Remove all images that are not in use?", "Nothing was removed")
		if err != nil || !ok {
			return err
		}
		removed, err := images.Prune(ctx, o)
		return errors.Join(err, show.RemovedImages(a.io, removed))
	})
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if o.All == c.Flags().Changed("unused-for") {
			return commandline.Misuse(c, errors.New("use either --unused-for or --all"))
		}
		if !o.All && o.UnusedFor <= 0 {
			return commandline.Misuse(c, errors.New("--unused-for must be more than 0"))
		}
		return nil
	}
	c.Flags().DurationVar(&o.UnusedFor, "unused-for", 0, "images that were not used for this long, such as 720h")
	c.Flags().BoolVar(&o.All, "all", false, "all images that are not in use")
	yesFlag(c, &yes)
	return c
}
