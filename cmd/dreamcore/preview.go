package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/config"
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

// previews are what the service shows to browsers.
type previews struct {
	service  *preview.Service
	listener net.Listener // of its own; nil: that of the service
	ended    chan struct{}
}

// openPreviews opens the previews of the settings; nil: there are none.
// api is where the service itself listens. After an error nothing is open;
// else the caller must start or close them.
func (s state) openPreviews(api net.Addr, log *slog.Logger) (_ *previews, err error) {
	p := &previews{ended: make(chan struct{})}
	at := api
	if s.cfg.PreviewListen != "" {
		if p.listener, err = listen(s.cfg.PreviewListen, "set preview_listen to another address"); err != nil {
			return nil, err
		}
		at = p.listener.Addr()
	}
	place, ok := previewPlace(s.cfg, at)
	if !ok {
		p.close()
		return nil, nil
	}
	if p.service, err = s.previewService(place, log); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (s state) previewService(place preview.Place, log *slog.Logger) (*preview.Service, error) {
	store, err := s.secrets()
	if err != nil {
		return nil, err
	}
	key, err := store.PreviewValue()
	if err != nil {
		return nil, err
	}
	s.redactor.Add(key)
	return preview.New(preview.Config{
		Place: place, Key: key, Projects: s.volumes, Logger: log,
		Hosts: s.cfg.PreviewHosts, Ancestors: s.cfg.PreviewAncestors,
	})
}

// previewPlace is where browsers find games that are served at an address; ok
// is false where the settings name no place.
func previewPlace(cfg config.Config, at net.Addr) (_ preview.Place, ok bool) {
	listens, _, _ := net.SplitHostPort(cmp.Or(cfg.PreviewListen, cfg.Listen)) // valid settings
	_, port, _ := net.SplitHostPort(at.String())
	d, ok := cfg.Domain()
	switch {
	case ok && d.Name == preview.Localhost && d.Scheme == "http" && d.Port == "":
		d.Port = port
	case ok:
	case cfg.PreviewDomain == config.PreviewOff:
		return preview.Place{}, false
	case isLoopback(listens):
		d = config.PreviewDomain{Scheme: "http", Name: preview.Localhost, Port: port}
	case cfg.PreviewListen != "":
		if ip := net.ParseIP(listens); listens == "" || ip != nil && ip.IsUnspecified() {
			listens = outwardAddress()
		}
		return preview.Place{Scheme: "http", Host: listens, Port: port, Shared: true}, true
	default:
		return preview.Place{}, false
	}
	return preview.Place{Scheme: d.Scheme, Host: d.Name, Port: d.Port}, true
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == preview.Localhost || ip != nil && ip.IsLoopback()
}

// outwardAddress is the address from which this machine would talk to the
// world, or loopback where it would not. Nothing is sent.
func outwardAddress() string {
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	return host
}

// listen listens on TCP; hint says what to do where that fails.
func listen(address, hint string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "cannot listen on " + address, Err: err,
			Hint: "stop what listens there, or " + hint,
		}
	}
	return ln, nil
}

// start serves until ctx ends, where previews have a listener of their own.
func (p *previews) start(ctx context.Context, log *slog.Logger) {
	if p == nil || p.listener == nil {
		return
	}
	go func() {
		defer close(p.ended)
		if err := p.service.Serve(ctx, p.listener); err != nil {
			log.Error("previews have ended", "error", err)
		}
	}()
}

// wait waits for the end of what start has started.
func (p *previews) wait() {
	if p != nil && p.listener != nil {
		<-p.ended
	}
}

// close is for previews that were not started.
func (p *previews) close() {
	if p != nil && p.listener != nil {
		_ = p.listener.Close()
	}
}

// links are for commands; nil without previews.
func (p *previews) links() control.Previews {
	if p == nil {
		return nil
	}
	return p.service
}

// onService is what the service's own listener does with the hosts of previews.
func (p *previews) onService() server.Previews {
	switch {
	case p == nil:
		return nil
	case p.listener != nil:
		return preview.Elsewhere{Service: p.service}
	}
	return p.service
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
