package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

type previewOptions struct {
	endpoint endpointOptions
	user     string
	lifetime time.Duration
	open     bool
}

func newPreviewCmd(a *app) *cobra.Command {
	var o previewOptions
	c := a.command("preview", func(ctx context.Context, args []string) error { return runPreview(ctx, a, o, args[0]) })
	c.ValidArgsFunction = a.projectWords
	o.endpoint.add(c)
	ownerFlag(c, &o.user)
	c.Flags().DurationVar(&o.lifetime, "for", preview.DefaultLifetime, "lifetime of the link, from 1m to 8784h")
	c.Flags().BoolVar(&o.open, "open", false, "open the browser")
	return c
}

func runPreview(ctx context.Context, a *app, o previewOptions, id string) error {
	if _, err := dreamcore.ParseProjectID(id); err != nil {
		return err
	}
	if o.lifetime < preview.MinLifetime || o.lifetime > preview.MaxLifetime {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--for is out of range", Hint: "use a duration from 1m to 8784h (366 days)"}
	}
	p, err := findProject(ctx, id, o.user, o.endpoint.owner(a))
	if err != nil {
		return err
	}
	address, expires, err := previewLink(ctx, a, o, p)
	if err != nil {
		return err
	}
	if a.io.JSON {
		err = a.io.WriteJSON(map[string]any{"url": address, "expires": expires})
	} else {
		a.io.Stdout().Print(address)
		a.io.Stderr().Info("everyone with this link can play the game until " + term.Time(expires))
	}
	if err != nil || !o.open {
		return err
	}
	if err := gameview.Browse(ctx, a.env.Display, address); err != nil {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the browser cannot be opened", Err: err, Hint: "open the link above yourself"}
	}
	return nil
}

// previewLink requests a link from the service of the state directory or, with
// an endpoint, from that service.
func previewLink(ctx context.Context, a *app, o previewOptions, p projectRef) (address string, expires time.Time, err error) {
	if o.endpoint.endpoint(a) == "" {
		err = a.withService(func(service *control.Client) error {
			address, expires, err = service.PreviewLink(ctx, p.user, p.id, o.lifetime)
			return err
		})
		return address, expires, err
	}
	err = o.endpoint.withClient(a, func(c *client.Client) error {
		address, expires, err = c.PreviewLink(ctx, p.user, p.id, o.lifetime)
		return err
	})
	return address, expires, err
}
