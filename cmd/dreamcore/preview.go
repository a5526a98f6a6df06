package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
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
		Short: "Print a link with which a browser shows a game",
		Long: "Prints a link to a game that the service on this state directory shows, or with\n" +
			"--endpoint another one. Whoever has the link can play the game until it expires.",
		Example: "  dreamcore preview UUID --open\n  dreamcore preview UUID --user UUID --for 168h",
		Args:    usageArgs(cobra.ExactArgs(1)),
		RunE:    func(c *cobra.Command, args []string) error { return runPreview(c.Context(), a, o, args[0]) },
	}
	o.endpoint.add(c)
	c.Flags().StringVar(&o.user, "user", localUser, "user the project belongs to, a UUID")
	c.Flags().DurationVar(&o.lifetime, "for", preview.DefaultLifetime, "how long the link works, from 1m to 8784h")
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
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--for is out of bounds", Hint: "give a time from 1m to 8784h (366 days)"}
	}
	address, expires, err := previewLink(ctx, a, o, user, project)
	if err != nil {
		return err
	}
	if a.io.JSON {
		err = a.io.WriteJSON(map[string]any{"url": address, "expires": expires})
	} else {
		a.io.Stdout().Print(address)
		a.io.Stderr().Info("whoever has this link can play the game until " + expires.Local().Format(time.RFC1123))
	}
	if err != nil || !o.open {
		return err
	}
	if err := browse(ctx, a, address); err != nil {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the browser cannot be opened", Err: err, Hint: "open the link above in one"}
	}
	return nil
}

// previewLink asks the service of the state directory, or the one at the
// endpoint that was given.
func previewLink(ctx context.Context, a *app, o previewOptions, user dreamcore.UserID, project dreamcore.ProjectID) (string, time.Time, error) {
	if o.endpoint.endpoint(a) != "" {
		c, err := o.endpoint.client(a, 0)
		if err != nil {
			return "", time.Time{}, err
		}
		defer c.Close()
		return c.PreviewLink(ctx, user, project, o.lifetime)
	}
	c, err := a.running()
	if err != nil {
		return "", time.Time{}, err
	}
	defer c.Close()
	return c.PreviewLink(ctx, user, project, o.lifetime)
}

// oneGame is a directory as the one project that there is.
type oneGame string

func (g oneGame) Find(dreamcore.UserID, dreamcore.ProjectID) (*volume.Project, error) {
	return volume.OpenDirectory(string(g))
}

// playPreview shows the game in a directory on a free port of loopback, and
// returns a link to it.
func playPreview(dir string, req dreamcore.GenerateRequest, log *slog.Logger) (*preview.Service, net.Listener, string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, "", err
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	s, err := preview.New(preview.Config{
		Place: preview.Place{Scheme: "http", Host: preview.Localhost, Port: port},
		Key:   secret.NewInternalSecret(), Projects: oneGame(dir), Logger: log,
	})
	if err != nil {
		return nil, nil, "", errors.Join(err, ln.Close())
	}
	address, _, err := s.Link(req.User, req.Project, preview.MaxLifetime)
	if err != nil {
		return nil, nil, "", errors.Join(err, ln.Close())
	}
	return s, ln, address, nil
}
