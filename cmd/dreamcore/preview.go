package main

import (
	"context"
	"errors"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

type previewOptions struct {
	endpoint endpointOptions
	user     string
	lifetime time.Duration
	open     bool
}

func newPreviewCmd(a *app) *cobra.Command {
	var o previewOptions
	c := &cobra.Command{
		Use:   "preview PROJECT",
		Short: "Print a link to a game for browsers",
		Long: "Prints a link to a game of the service that runs on this state directory or, with\n" +
			"--endpoint, of another one. Everyone with the link can play the game until it expires.",
		Example: "  dreamcore preview UUID --open\n  dreamcore preview UUID --user UUID --for 168h",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    func(c *cobra.Command, args []string) error { return runPreview(c.Context(), a, o, args[0]) },
	}
	o.endpoint.add(c)
	c.Flags().StringVar(&o.user, "user", localUser, "user the project belongs to, a UUID")
	c.Flags().DurationVar(&o.lifetime, "for", preview.DefaultLifetime, "lifetime of the link, from 1m to 8784h")
	c.Flags().BoolVar(&o.open, "open", false, "open the browser")
	return c
}

func runPreview(ctx context.Context, a *app, o previewOptions, id string) error {
	user, err := dreamcore.ParseUserID(o.user)
	if err != nil {
		return err
	}
	project, err := dreamcore.ParseProjectID(id)
	if err != nil {
		return err
	}
	if o.lifetime < preview.MinLifetime || o.lifetime > preview.MaxLifetime {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--for is out of range", Hint: "use a duration from 1m to 8784h (366 days)"}
	}
	address, expires, err := previewLink(ctx, a, o, user, project)
	if err != nil {
		return err
	}
	if a.io.JSON {
		err = a.io.WriteJSON(map[string]any{"url": address, "expires": expires})
	} else {
		a.io.Stdout().Print(address)
		a.io.Stderr().Info("everyone with this link can play the game until " + expires.Local().Format(time.RFC1123))
	}
	if err != nil || !o.open {
		return err
	}
	if err := browse(ctx, a, address); err != nil {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the browser cannot be opened", Err: err, Hint: "open the link above yourself"}
	}
	return nil
}

// previewLink requests a link from the service of the state directory or, with
// an endpoint, from that service.
func previewLink(ctx context.Context, a *app, o previewOptions, user dreamcore.UserID, project dreamcore.ProjectID) (address string, expires time.Time, err error) {
	if o.endpoint.endpoint(a) == "" {
		err = a.withService(func(service *control.Client) error {
			address, expires, err = service.PreviewLink(ctx, user, project, o.lifetime)
			return err
		})
		return address, expires, err
	}
	c, err := o.endpoint.client(a, 0)
	if err != nil {
		return "", time.Time{}, err
	}
	defer c.Close()
	return c.PreviewLink(ctx, user, project, o.lifetime)
}

// serveGame serves the game in dir on loopback until the command is interrupted,
// with the restrictions of a preview: the agent's code is not trusted.
func serveGame(ctx context.Context, a *app, req dreamcore.Request, dir string) error {
	r, err := req.Validate()
	if err != nil {
		return err
	}
	service, listener, address, err := preview.OpenDirectory(dir, r.User, r.Project, a.logger("error"))
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- service.Serve(ctx, listener) }()
	p := a.io.Human()
	p.Success("Serving the game", address)
	if err := browse(ctx, a, address); err != nil {
		p.Hint("open " + address + " in a browser")
	}
	p.Info("Stop with Ctrl-C")
	return <-done
}

// browse opens the browser of the desktop.
func browse(ctx context.Context, a *app, url string) error {
	if !a.env.Display {
		return errors.New("there is no display")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "xdg-open", url).Run()
}
