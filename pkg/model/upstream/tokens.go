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

	// A token is replaced so long before its end, and used to the last while.
	refreshAhead = 5 * time.Minute
	lastMoment   = 10 * time.Second
	// tokenLimit bounds the wait for a token.
	tokenLimit = 15 * time.Second
	assertion  = time.Hour // that Google allows
	// hiddenTokens is how many of the last tokens are kept out of what is
	// printed: all that may still work, also after a row of refusals.
	hiddenTokens = 8
)

// account is what a service account's file says. The package jwt of x/oauth2
// does the rest; its package google would bring a client of the metadata
// service, which nothing here may ask.
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
	bad := json.Unmarshal([]byte(raw), &a) // its error could quote the file
	if a.TokenURL == "" {
		a.TokenURL = googleTokenURL
	}
	u, urlErr := url.Parse(a.TokenURL)
	if bad != nil || a.Type != "service_account" || a.Email == "" || !strings.Contains(a.Key, "PRIVATE KEY") || urlErr != nil || u.Scheme != "https" {
		return account{}, setupError("the secret of the upstream "+c.entry.Name+" is not the JSON file of a Google service account", c.entry.mend(), nil)
	}
	c.hide(a.Key)
	return a, nil
}

// tokens are the access tokens of a service account, one at a time.
type tokens struct {
	credentials credentials
	client      *http.Client
	now         func() time.Time
	unhide      func(string)

	turn chan struct{} // holds one: who has it may fetch

	mu      sync.Mutex
	current string    // guarded by mu
	end     time.Time // guarded by mu
	of      account   // guarded by mu: whose token it is
	hidden  []string  // guarded by mu: the last tokens
}

func newTokens(c credentials, unhide func(string)) *tokens {
	t := &tokens{credentials: c, now: time.Now, unhide: unhide, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}
	return t
}

// get returns a token that works for some time. One that ends soon is replaced
// by the request that sees it first, while the others go on with it.
func (t *tokens) get(ctx context.Context) (string, error) {
	a, err := t.credentials.account()
	if err != nil {
		return "", fmt.Errorf("%w: %w", gateway.ErrNoCredential, err)
	}
	token, left := t.look(a)
	if left > refreshAhead {
		return token, nil
	}
	usable := left > lastMoment
	if usable {
		select {
		case <-t.turn:
		default:
			return token, nil
		}
	} else {
		select {
		case <-t.turn:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	defer func() { t.turn <- struct{}{} }()
	if again, left := t.look(a); left > refreshAhead {
		return again, nil // somebody was faster
	}
	fresh, err := t.fetch(ctx, a)
	if err != nil && usable && ctx.Err() == nil {
		return token, nil
	}
	return fresh, err
}

// look returns the token of a and how long it works.
func (t *tokens) look(a account) (string, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of != a || t.current == "" {
		return "", 0
	}
	return t.current, t.end.Sub(t.now())
}

// forget drops a token that was refused.
func (t *tokens) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current = ""
}

func (t *tokens) fetch(ctx context.Context, a account) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	c := jwt.Config{Email: a.Email, PrivateKey: []byte(a.Key), PrivateKeyID: a.KeyID, Scopes: []string{cloudScope}, TokenURL: a.TokenURL, Expires: assertion}
	token, err := c.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, boundClient(ctx, t.client))).Token()
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
		return "", fmt.Errorf("the token service gave no token: %w", err)
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

// oauthReason is the error code of the token service, if it is one.
func oauthReason(body []byte) string {
	var v struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &v) != nil || len(v.Error) > 64 {
		return "no reason"
	}
	return v.Error
}

// boundClient is client with every request under ctx: jwt makes its own
// requests without one.
func boundClient(ctx context.Context, client *http.Client) *http.Client {
	bound := *client
	bound.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		return client.Transport.RoundTrip(r.WithContext(ctx))
	})
	return &bound
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
