package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
)

// pictureOptions select a picture of a game and the file for it.
type pictureOptions struct{ gameview.Picture }

func (o *pictureOptions) add(c *cobra.Command) {
	c.Flags().StringVar(&o.File, "screenshot", "", "write a picture of the game to this file, as PNG")
	c.Flags().StringVar(&o.Screen, "screen", history.Screens[0], "screen of the picture: "+strings.Join(history.Screens, " or "))
}

// fetch writes the picture of a version, if the options select one, or says why it
// cannot. The outcome of the command was shown before, so it only warns. version is
// that of a job, or "" if the job has made no version.
func (o pictureOptions) fetch(ctx context.Context, a *app, service endpointOptions, user dreamcore.UserID, project dreamcore.ProjectID, version string) {
	if o.File == "" {
		return
	}
	if version == "" {
		a.io.Stderr().Warning("there is no screenshot", "the job has made no version of the game")
		return
	}
	picture, err := o.find(ctx, a, service, user, project, version)
	o.Keep(a.io, a.redactor.Redact, picture, err)
}

func (o pictureOptions) find(ctx context.Context, a *app, service endpointOptions, user dreamcore.UserID, project dreamcore.ProjectID, version string) (picture []byte, err error) {
	if service.endpoint(a) != "" {
		err = service.withClient(a, func(c *client.Client) error {
			picture, err = c.Thumbnail(ctx, user, project, version, o.Screen)
			return err
		})
		return picture, err
	}
	err = a.withState(func(s *daemon.State) error {
		versions, err := a.openHistory(s)
		if err != nil {
			return err
		}
		picture, _, err = versions.Shot(ctx, user, project, version, o.Screen)
		return err
	})
	return picture, err
}
