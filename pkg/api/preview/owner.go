package preview

import (
	"net/http"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Owners finds the owners of games that other programs serve with the same key.
type Owners struct{ service *Service }

// NewOwners returns the owners of the games of a place, which must not be shared. The
// error is CodeSetup if the key is too short.
func NewOwners(place Place, key string) (*Owners, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	sealer, err := newSealer(key)
	if err != nil {
		return nil, err
	}
	return &Owners{&Service{cfg: Config{Place: place}, sealer: sealer, now: time.Now}}, nil
}

// Serves reports whether all requests for a host belong to previews.
func (o *Owners) Serves(host string) bool { return o.service.Serves(host) }

// User returns the owner of the game that a request shows, by its link or its cookie.
// ok is false if nothing in it permits to see the game of that host.
func (o *Owners) User(r *http.Request) (user dreamcore.UserID, ok bool) {
	label, ok := o.service.label(r.Host)
	if !ok {
		return "", false
	}
	g, ok := o.service.admits(label, r)
	return g.user, ok
}

// admits returns the grant of a request for the game at a label.
func (s *Service) admits(label string, r *http.Request) (g grant, ok bool) {
	if query := r.URL.Query(); query.Has(tokenParameter) {
		g, ok = s.sealer.open(scopeLink, query.Get(tokenParameter), s.now())
		return g, ok && s.sealer.owns(label, g)
	}
	for _, c := range r.CookiesNamed(s.cookieName()) {
		if g, ok = s.sealer.open(scopeCookie, c.Value, s.now()); ok && s.sealer.owns(label, g) {
			return g, true
		}
	}
	return grant{}, false
}
