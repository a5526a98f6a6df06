package daemon

import (
	"cmp"
	"context"
	"log/slog"
	"net"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/config"
)

// previews show games to browsers. A nil *previews shows none.
type previews struct {
	service  *preview.Service
	listener net.Listener // nil if previews share the listener of the service
}

// openPreviews opens the previews, or returns nil if the settings disable them.
// api is the address of the service itself. inherited is the previews' listener, or
// nil if they have to open it; openPreviews closes it if they do not use it. The
// caller must close the previews.
func (s *State) openPreviews(api net.Addr, inherited net.Listener, log *slog.Logger) (_ *previews, err error) {
	p := &previews{listener: inherited}
	defer func() {
		if err != nil {
			_ = p.close()
		}
	}()
	at := api
	if s.Config.PreviewListen != "" && p.listener == nil {
		if p.listener, err = listen(s.Config.PreviewListen, "", "set preview_listen to another address"); err != nil {
			return nil, err
		}
	}
	if p.listener != nil {
		at = p.listener.Addr()
	}
	place, ok := previewPlace(s.Config, at)
	if !ok {
		return nil, p.close()
	}
	if p.service, err = s.previewService(place, log); err != nil {
		return nil, err
	}
	return p, nil
}

func (s *State) previewService(place preview.Place, log *slog.Logger) (*preview.Service, error) {
	store, err := s.OpenSecrets()
	if err != nil {
		return nil, err
	}
	key, err := store.PreviewValue()
	if err != nil {
		return nil, err
	}
	s.Redactor.Add(key)
	return preview.New(preview.Config{
		Place: place, Key: key, Projects: residents{s}, Logger: log,
		Hosts: s.Config.PreviewHosts, Ancestors: s.Config.PreviewAncestors,
	})
}

// previewPlace returns where browsers find games that are served at an address;
// ok is false if the settings name no place.
func previewPlace(cfg config.Config, at net.Addr) (_ preview.Place, ok bool) {
	host, _, _ := net.SplitHostPort(cmp.Or(cfg.PreviewListen, cfg.Listen)) // valid settings
	_, port, _ := net.SplitHostPort(at.String())
	d, ok := cfg.Domain()
	switch {
	case ok && d.Name == preview.Localhost && d.Scheme == "http" && d.Port == "":
		d.Port = port
	case ok:
	case cfg.PreviewDomain == config.PreviewOff:
		return preview.Place{}, false
	case isLoopback(host):
		d = config.PreviewDomain{Scheme: "http", Name: preview.Localhost, Port: port}
	case cfg.PreviewListen != "":
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = outwardAddress()
		}
		return preview.Place{Scheme: "http", Host: host, Port: port, Shared: true}, true
	default:
		return preview.Place{}, false
	}
	return preview.Place{Scheme: d.Scheme, Host: d.Name, Port: d.Port}, true
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == preview.Localhost || ip != nil && ip.IsLoopback()
}

// outwardAddress returns the address from which this machine would connect to
// the internet, or loopback if it would not. Nothing is sent.
func outwardAddress() string {
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	return host
}

// serve serves until ctx ends. The previews must have a listener of their own.
func (p *previews) serve(ctx context.Context, log *slog.Logger) {
	if err := p.service.Serve(ctx, p.listener); err != nil {
		log.Error("previews have ended", "error", err)
	}
}

// close closes the listener. It may be called after serve.
func (p *previews) close() error {
	if p != nil && p.listener != nil {
		_ = p.listener.Close()
	}
	return nil
}

// links makes links for commands.
func (p *previews) links() control.Previews {
	if p == nil {
		return nil
	}
	return p.service
}

// onService answers requests for previews on the listener of the service.
func (p *previews) onService() server.Previews {
	switch {
	case p == nil:
		return nil
	case p.listener != nil:
		return preview.Elsewhere{Service: p.service}
	}
	return p.service
}
