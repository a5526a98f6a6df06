package route

import (
	"crypto/sha256"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
)

const (
	// secretAge is how long the router reads the bodies of clients with a secret that a
	// cell has accepted, and holds their requests. The cells check every request.
	secretAge  = time.Minute
	maxSecrets = 1024
)

// secretHeaders are the headers that can carry the secret.
var secretHeaders = []string{server.SecretHeader, "Authorization"}

// credentials are the digests of secrets that a cell has accepted.
type credentials struct {
	mu   sync.Mutex
	good map[[sha256.Size]byte]time.Time // guarded by mu; when they were accepted
}

func (c *credentials) has(key [sha256.Size]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.good[key]
	return ok && time.Since(at) < secretAge
}

func (c *credentials) add(key [sha256.Size]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.good == nil || len(c.good) >= maxSecrets {
		c.good = map[[sha256.Size]byte]time.Time{}
	}
	c.good[key] = time.Now()
}

// keyOf returns the digest of the credentials in a header; ok is false if it has none.
func keyOf(h http.Header) (key [sha256.Size]byte, ok bool) {
	sum := sha256.New()
	for _, name := range secretHeaders {
		for _, v := range h.Values(name) {
			ok = true
			_, _ = io.WriteString(sum, name+"\x00"+v+"\x00") // never fails; headers have no NUL
		}
	}
	sum.Sum(key[:0])
	return key, ok
}

// admit reports whether a client has a valid secret. A cell says so.
func (rt *Router) admit(x *exchange) (bool, error) {
	key, ok := keyOf(x.r.Header)
	if !ok {
		return false, nil
	}
	if rt.admitted.has(key) {
		return true, nil
	}
	r, err := http.NewRequestWithContext(x.r.Context(), http.MethodPost, "/test_auth", http.NoBody)
	if err != nil {
		return false, err
	}
	resp, err := rt.side(x, r, want{}, true)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, missLimit)
	if resp.StatusCode == http.StatusOK {
		rt.admitted.add(key)
	}
	return resp.StatusCode == http.StatusOK, nil
}

// side sends a request of the router itself with the credentials of a client's. The
// caller must close the body of the answer.
func (rt *Router) side(x *exchange, r *http.Request, w want, stranger bool) (*http.Response, error) {
	for _, name := range append([]string{"Accept-Language", server.RequestHeader}, secretHeaders...) {
		if values := x.r.Header.Values(name); len(values) > 0 {
			r.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	r.Header.Set("X-Forwarded-For", rt.forwardedFor(x.r))
	sub := &exchange{r: r, want: w, stranger: stranger, body: noBody, until: x.until}
	return rt.RoundTrip(r.WithContext(contextWith(r.Context(), sub)))
}
