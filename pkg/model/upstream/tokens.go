package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

const (
	cloudScope     = "https://www.googleapis.com/auth/cloud-platform"
	googleTokenURL = "https://oauth2.googleapis.com/token"

	// refreshAhead is how long before its expiry a token is replaced; lastMoment
	// is how long before it a token can no longer be used.
	refreshAhead = 5 * time.Minute
	lastMoment   = 10 * time.Second
	// tokenLimit bounds the wait for a token.
	tokenLimit = 15 * time.Second
	assertion  = time.Hour // Google's maximum
	// hiddenTokens is the number of most recent tokens that are redacted from
	// output: all that may still be valid, even after several refusals.
	hiddenTokens = 8
)

// account is the content of a service account's file. The package jwt of x/oauth2
// fetches the tokens; its package google would add a client of the metadata
// service, which must not be used here.
type account struct {
	Type     string `json:"type"`
	Email    string `json:"client_email"`
	Key      string `json:"private_key"`
	KeyID    string `json:"private_key_id"`
	TokenURL string `json:"token_uri"`
}

// account opens the sealed service account.
func (c credentials) account() (account, error) {
	raw, err := c.open(c.entry.ServiceAccount)
	if err != nil {
		return account{}, err
	}
	var a account
	bad := json.Unmarshal([]byte(raw), &a) // the error is not shown: it could quote the file
	if a.TokenURL == "" {
		a.TokenURL = googleTokenURL
	}
	u, urlErr := url.Parse(a.TokenURL)
	if bad != nil || a.Type != "service_account" || a.Email == "" || !strings.Contains(a.Key, "PRIVATE KEY") || urlErr != nil || u.Scheme != "https" {
		return account{}, setupError(ReasonCredential, "the secret of the upstream "+c.entry.Name+" is not the JSON file of a Google service account", c.entry.repair(), nil)
	}
	c.hide(a.Key)
	return a, nil
}

// tokens fetches and caches the access token of a service account.
type tokens struct {
	credentials credentials
	transport   http.RoundTripper
	now         func() time.Time
	unhide      func(string)

	fetching chan struct{} // a mutex with a deadline: the receiver of its value may fetch

	mu      sync.Mutex
	current string    // guarded by mu
	end     time.Time // guarded by mu
	of      account   // guarded by mu: the account of current
	hidden  []string  // guarded by mu: the last tokens
}

func newTokens(c credentials, unhide func(string)) *tokens {
	t := &tokens{credentials: c, now: time.Now, unhide: unhide, fetching: make(chan struct{}, 1)}
	t.fetching <- struct{}{}
	return t
}

// get returns a valid token. One that expires soon is replaced by the first
// request that notices, while the others continue to use it.
func (t *tokens) get(ctx context.Context) (string, error) {
	a, err := t.credentials.account()
	if err != nil {
		return "", fmt.Errorf("%w: %w", gateway.ErrNoCredential, err)
	}
	token, left := t.cached(a)
	if left > refreshAhead {
		return token, nil
	}
	usable := left > lastMoment
	select {
	case <-t.fetching:
	default:
		if usable {
			return token, nil
		}
		select {
		case <-t.fetching:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	defer func() { t.fetching <- struct{}{} }()
	if again, left := t.cached(a); left > refreshAhead {
		return again, nil // another request has replaced it
	}
	fresh, err := t.fetch(ctx, a)
	if err != nil && usable && ctx.Err() == nil {
		return token, nil
	}
	return fresh, err
}

// cached returns the current token of a and how long it is valid.
func (t *tokens) cached(a account) (string, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of != a || t.current == "" {
		return "", 0
	}
	return t.current, t.end.Sub(t.now())
}

// forget discards a token that was refused.
func (t *tokens) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = ""
}

func (t *tokens) fetch(ctx context.Context, a account) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	c := jwt.Config{Email: a.Email, PrivateKey: []byte(a.Key), PrivateKeyID: a.KeyID, Scopes: []string{cloudScope}, TokenURL: a.TokenURL, Expires: assertion}
	token, err := c.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, boundClient(ctx, t.transport))).Token()
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response.StatusCode < 500 && refused.Response.StatusCode != http.StatusTooManyRequests:
		return "", fmt.Errorf("%w: the token service refuses the service account with status %d: %s", gateway.ErrNoCredential, refused.Response.StatusCode, oauthReason(refused.Body))
	case errors.As(err, &refused):
		return "", fmt.Errorf("the token service answers with status %d", refused.Response.StatusCode)
	case err != nil && strings.Contains(err.Error(), "private key"):
		return "", fmt.Errorf("%w: the service account's private key cannot be read", gateway.ErrNoCredential)
	case err != nil:
		return "", fmt.Errorf("fetch a token: %w", err)
	}
	value, err := gateway.CheckCredential(token.AccessToken)
	if err != nil {
		return "", fmt.Errorf("the token service did not return a valid token: %w", err)
	}
	t.credentials.hide(value)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.hidden, value) {
		t.hidden = append(t.hidden, value)
	}
	if len(t.hidden) > hiddenTokens {
		t.unhide(t.hidden[0])
		t.hidden = slices.Delete(t.hidden, 0, 1)
	}
	t.current, t.of = value, a
	t.end = token.Expiry
	if token.Expiry.IsZero() {
		t.end = t.now().Add(refreshAhead + time.Minute)
	}
	return value, nil
}

// oauthReason returns the error code in an answer of the token service.
func oauthReason(body []byte) string {
	var v struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &v) != nil || len(v.Error) > 64 {
		return "no reason"
	}
	return v.Error
}

// boundClient returns a client whose requests use ctx, since jwt sends its requests
// without a context. It follows no redirect.
func boundClient(ctx context.Context, transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     roundTripper(func(r *http.Request) (*http.Response, error) { return transport.RoundTrip(r.WithContext(ctx)) }),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
