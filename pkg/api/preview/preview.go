// Package preview serves games to browsers. The code of a game is hostile: it
// must not reach the operator's pages, the service or another game. So each game
// has an origin of its own, which browsers isolate:
//
//	http://LABEL.DOMAIN/   one origin per game: LABEL is derived from user and
//	                       project by a keyed hash, so it reveals neither and
//	                       cannot be guessed
//	http://HOST/TOKEN/     one shared origin, without a domain: pages are sandboxed
//	                       into opaque origins, without any storage
//
// Anyone with a link can see the game until the link expires. A link carries a
// token, sealed with the operator's key. With own origins, the first request
// exchanges the token for a cookie of that host and redirects to an address
// without it. In the shared origin the token stays in the path, because opaque
// origins have no cookies.
//
// A request passes these checks: host → no service worker → method → not from
// another site's page → link or cookie → file. The service's secrets play no part.
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
	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

// Bounds of a link's lifetime.
const (
	DefaultLifetime = 24 * time.Hour
	MinLifetime     = time.Minute
	MaxLifetime     = 366 * 24 * time.Hour
)

const (
	// MaxHeaderBytes bounds the header of a request for a game: a browser keeps up
	// to 180 cookies of 4 KiB for a site, and sends them all.
	MaxHeaderBytes = 768 << 10
	headerTimeout  = 10 * time.Second
	readTimeout    = 30 * time.Second
	writeTimeout   = 30 * time.Second // without progress
	idleTimeout    = 2 * time.Minute
	graceLimit     = 5 * time.Second
)

// Localhost is the domain whose names browsers resolve to their own host.
const Localhost = "localhost"

// Place is the address of games.
type Place struct {
	Scheme string // http or https, as seen by browsers
	Host   string // the domain above the games' own hosts, or the host of all games; lower case
	Port   string // "" is the default port of the scheme
	Shared bool   // one origin for all games
}

// String returns the form of games' addresses, for people.
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

// Projects opens projects; *volume.Store implements it.
type Projects interface {
	// Find opens a project, which the caller must close. The error is
	// CodeNotFound if the project does not exist.
	Find(user dreamcore.UserID, project dreamcore.ProjectID) (*volume.Project, error)
}

// Config configures a Service.
type Config struct {
	Place     Place
	Key       string   // the operator's; labels and tokens are derived from it
	Hosts     []string // sources, as in a content security policy, that games may load from
	Ancestors []string // origins whose pages may show games in frames
	Projects  Projects
	Logger    *slog.Logger // nil discards
}

// Service serves games. Its methods are safe for concurrent use.
type Service struct {
	cfg    Config
	sealer sealer
	policy policy
	now    func() time.Time
}

// ReasonKey is the reason of an error of the key.
const ReasonKey dreamcore.Reason = "preview.key"

// minKey is the minimum length of the key, in bytes.
const minKey = 32

// New returns a Service. The error is CodeSetup if the key is too short.
func New(cfg Config) (*Service, error) {
	if err := checkKey(cfg.Key); err != nil {
		return nil, err
	}
	if cfg.Projects == nil || cfg.Place.Host == "" {
		return nil, errors.New("preview: Projects and Place are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sealer, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, sealer: sealer, policy: newPolicy(cfg), now: time.Now}, nil
}

func checkKey(key string) error {
	if len(key) >= minKey {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonKey, Message: fmt.Sprintf("the key of previews is shorter than %d characters", minKey),
		Hint: "delete it to have a new one created",
	}
}

// Place returns the address of games.
func (s *Service) Place() Place { return s.cfg.Place }

// Link returns the address of a game and its expiry. A lifetime of 0 selects
// DefaultLifetime. The error is CodeInvalid if the lifetime is out of bounds and
// CodeNotFound if the project does not exist.
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

// Serves reports whether a host, as in a request, belongs to previews, so that
// nothing else may answer there. That is everything in the domain, except that of
// localhost only labels belong to it, because other programs use localhost too.
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

// label returns the label of the game that a host belongs to.
func (s *Service) label(host string) (string, bool) {
	label, ok := strings.CutSuffix(hostName(host), "."+s.cfg.Place.Host)
	return label, ok && isLabel(label)
}

// hostName returns the name in a Host header in lower case, without port and
// final dot.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// Elsewhere handles a Service's hosts on another listener, where it only responds
// that games are served at another port.
type Elsewhere struct{ *Service }

// ServeHTTP implements http.Handler.
func (e Elsewhere) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.policy.page(w, r, http.StatusMisdirectedRequest, pageElsewhere)
}

// Serve serves games on a listener of its own until ctx is done, then closes it.
// It returns when no request is being served any more: nil after such a stop, an
// error if ln failed.
func (s *Service) Serve(ctx context.Context, ln net.Listener) error {
	var conns sync.WaitGroup // http.Server.Close does not wait for handlers
	var pending response.Pending
	srv := &http.Server{
		Handler: s, MaxHeaderBytes: MaxHeaderBytes,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		// StateNew is reported before Serve returns, so Add is never concurrent with Wait.
		ConnState: func(c net.Conn, state http.ConnState) {
			pending.Follow(c, state)
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
		_ = ln.Close()
		<-ended
		_ = pending.Shutdown(grace, srv) // srv.Close below cuts the rest
		cancel()
	}
	// The connections that are left are those of requests that outlast the grace:
	// their visitors lose them. The error is of a listener that is already closed.
	_ = srv.Close()
	conns.Wait()
	return failed
}
