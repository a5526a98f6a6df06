// Package preview shows games to browsers. The code of a game is hostile: it
// must reach neither the pages of the operator, nor the service, nor another
// game. So each game has an origin of its own, which the browser keeps apart:
//
//	http://LABEL.DOMAIN/   own origins: LABEL follows from user and project by a
//	                       keyed hash, so it tells neither and cannot be guessed
//	http://HOST/TOKEN/     one origin for all, where there is no domain: pages are
//	                       sandboxed into opaque origins, without any storage
//
// Whoever has a link may see the game until it expires. A link carries a token,
// sealed with a key of the operator. Under own origins the first request with
// it gets a cookie of that host in its place, and the address without it;
// in the shared one it stays in the path, since opaque origins have no cookies.
//
// A request passes: host → no service worker → method → not from another
// site's page → link or cookie → file. No secret of the service is looked at.
package preview

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// How long links are good.
const (
	DefaultLifetime = 24 * time.Hour
	MinLifetime     = time.Minute
	MaxLifetime     = 366 * 24 * time.Hour
)

const (
	// MaxHeaderBytes is how large the header of a request for a game may be: a
	// browser keeps up to 180 cookies of 4 KiB for a site, and sends all.
	MaxHeaderBytes = 768 << 10
	headerTimeout  = 10 * time.Second
	readTimeout    = 30 * time.Second
	writeTimeout   = 30 * time.Second // without progress
	idleTimeout    = 2 * time.Minute
	graceLimit     = 5 * time.Second
)

// Localhost is the domain whose names browsers resolve to their own machine.
const Localhost = "localhost"

// Place is where browsers find games.
type Place struct {
	Scheme string // http or https, as browsers have it
	Host   string // the domain above the games' own hosts, or the host of all games; lower case
	Port   string // "": the usual one of the scheme
	Shared bool   // one origin for all games
}

// String is the address of games, for people.
func (p Place) String() string {
	if p.Shared {
		return p.origin(p.Host) + "/TOKEN/"
	}
	return p.origin("LABEL."+p.Host) + "/"
}

func (p Place) origin(host string) string {
	if p.Port != "" {
		host = net.JoinHostPort(host, p.Port)
	} else if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return p.Scheme + "://" + host
}

// Projects is where games are read; *volume.Store is one.
type Projects interface {
	// Find opens a project; CodeNotFound: there is none. The caller closes it.
	Find(user dreamcore.UserID, project dreamcore.ProjectID) (*volume.Project, error)
}

// Config of a Service.
type Config struct {
	Place     Place
	Key       string   // of the operator; labels and tokens follow from it
	Hosts     []string // sources of a content security policy that games may load from
	Ancestors []string // origins whose pages may show games in frames
	Projects  Projects
	Logger    *slog.Logger // nil: no log
}

// Service shows games. Its methods are safe for concurrent use.
type Service struct {
	cfg    Config
	log    *slog.Logger
	sealer sealer
	policy policy
	now    func() time.Time
}

// minKey is the shortest key, in bytes.
const minKey = 32

// New returns a Service. CodeSetup: the key is too short.
func New(cfg Config) (*Service, error) {
	if len(cfg.Key) < minKey {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the key of previews is shorter than %d characters", minKey),
			Hint: "delete it, and a new one is made: dreamcore secret delete preview-key",
		}
	}
	if cfg.Projects == nil || cfg.Place.Host == "" {
		return nil, errors.New("preview: Projects and Place are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sealer, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, log: cfg.Logger, sealer: sealer, policy: newPolicy(cfg), now: time.Now}, nil
}

// Place is where games are shown.
func (s *Service) Place() Place { return s.cfg.Place }

// Link returns the address of a game, and when it stops to work. A lifetime of
// 0 is DefaultLifetime. CodeInvalid: the lifetime is out of bounds;
// CodeNotFound: there is no such project.
func (s *Service) Link(user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error) {
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	if lifetime < MinLifetime || lifetime > MaxLifetime {
		return "", expires, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "Invalid lifetime of a preview link",
			Hint: "use one between 1m and 8784h (366 days)",
		}
	}
	p, err := s.cfg.Projects.Find(user, project)
	if err != nil {
		return "", expires, err
	}
	if err := p.Close(); err != nil {
		return "", expires, err
	}
	g := grant{user: user, project: project, expires: s.now().Add(lifetime).Truncate(time.Second)}
	if s.cfg.Place.Shared {
		token, err := s.sealer.seal(scopePath, g)
		return s.cfg.Place.origin(s.cfg.Place.Host) + "/" + token + "/", g.expires, err
	}
	token, err := s.sealer.seal(scopeLink, g)
	origin := s.cfg.Place.origin(s.sealer.label(user, project) + "." + s.cfg.Place.Host)
	return origin + "/?" + url.Values{tokenParameter: {token}}.Encode(), g.expires, err
}

// Serves tells whether a host, as a request names it, belongs to previews, so
// that nothing else may answer there: everything in the domain, but of
// localhost only the names that are labels, since the rest is not ours alone.
func (s *Service) Serves(host string) bool {
	if s.cfg.Place.Shared {
		return false
	}
	name := hostName(host)
	if name == s.cfg.Place.Host {
		return name != Localhost
	}
	label, ok := strings.CutSuffix(name, "."+s.cfg.Place.Host)
	return ok && (s.cfg.Place.Host != Localhost || isLabel(label))
}

// label is the label of the game that a host belongs to.
func (s *Service) label(host string) (string, bool) {
	label, ok := strings.CutSuffix(hostName(host), "."+s.cfg.Place.Host)
	return label, ok && isLabel(label)
}

// hostName is the name in a Host header, lower case, without port and the dot
// at its end.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// Elsewhere is a Service on the listener of something else, where it answers
// its hosts with nothing but that games are not here.
type Elsewhere struct{ *Service }

// ServeHTTP implements http.Handler.
func (e Elsewhere) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.policy.page(w, r, http.StatusMisdirectedRequest, pageElsewhere)
}

// Serve shows games on a listener of its own until ctx ends, then closes it. It
// returns when no request is being served any more: nil after such a stop, an
// error when ln failed.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	var conns sync.WaitGroup // http.Server.Close does not wait for handlers
	srv := &http.Server{
		Handler: s, MaxHeaderBytes: MaxHeaderBytes,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// StateNew is reported before Serve returns, so Add never meets Wait.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed:
				conns.Done()
			}
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	var failed error
	select {
	case err := <-ended:
		failed = fmt.Errorf("accept connections on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceLimit)
		_ = srv.Shutdown(grace) // what is left is cut
		cancel()
		<-ended
	}
	_ = srv.Close()
	conns.Wait()
	return failed
}
