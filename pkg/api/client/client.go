package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// SecretHeader carries the internal secret.
const SecretHeader = "X-Modal-Secret"

const (
	// DefaultTimeout is long enough for two cold sandboxes on a busy machine.
	DefaultTimeout = time.Minute
	// DefaultSilence is longer than a whole run of the CLI (5 min): the old
	// backend sends no keep-alive comments while the model thinks.
	DefaultSilence = 6 * time.Minute
	// maxRedirects within the server's own origin.
	maxRedirects = 5
)

// Options of a Client.
type Options struct {
	Endpoint  Endpoint
	Secret    string        // goes into SecretHeader; "" sends none
	HTTP      *http.Client  // its Transport is used; nil makes one
	UserAgent string        // "" is the product's name
	Language  string        // Accept-Language, for the sentences of errors; "" sends none
	Timeout   time.Duration // for a whole JSON answer, and for the head of a stream; 0 is DefaultTimeout
	Silence   time.Duration // the longest pause within a stream; 0 is DefaultSilence
}

// Client calls the endpoints of one server. It is safe for concurrent use.
type Client struct {
	opts     Options
	http     *http.Client
	maxEvent int // bytes of one event of a stream
}

// New returns a client. Close frees its idle connections.
func New(o Options) (*Client, error) {
	if o.Endpoint == (Endpoint{}) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "no endpoint is given", Hint: "pass --endpoint URL or set MODAL_ENDPOINT"}
	}
	if strings.ContainsFunc(o.Secret, func(r rune) bool { return r < ' ' || r >= 0x7f }) || strings.TrimSpace(o.Secret) != o.Secret {
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeInvalid,
			Message: "the secret has characters that no header can carry",
			Hint:    "look for a line break or a blank around the secret",
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Silence <= 0 {
		o.Silence = DefaultSilence
	}
	if o.UserAgent == "" {
		o.UserAgent = dreamcore.AppName
	}
	return &Client{opts: o, http: httpClient(o), maxEvent: maxEvent}, nil
}

// Endpoint returns the address that the client was made for.
func (c *Client) Endpoint() Endpoint { return c.opts.Endpoint }

// HasSecret tells whether the client sends a secret.
func (c *Client) HasSecret() bool { return c.opts.Secret != "" }

// Secret returns the secret that the client sends.
func (c *Client) Secret() string { return c.opts.Secret }

// Close frees the idle connections. Calls that run are not touched.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// httpClient never follows a redirect to another origin: net/http strips
// Authorization and cookies there, but not our header.
func httpClient(o Options) *http.Client {
	var transport http.RoundTripper
	if o.HTTP != nil && o.HTTP.Transport != nil {
		transport = o.HTTP.Transport
	} else {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxResponseHeaderBytes = maxAnswer
		transport = t
	}
	return &http.Client{Transport: transport, CheckRedirect: checkRedirect}
}

// errRedirect stops a redirect; to is where the server pointed.
type errRedirect struct{ to *url.URL }

func (e *errRedirect) Error() string { return "redirect to " + e.target() + " was not followed" }

// target leaves out what may be private: user, query and fragment.
func (e *errRedirect) target() string { return origin(e.to) + e.to.EscapedPath() }

// checkRedirect follows a redirect within the origin where the method stays
// as meant: the old backend answers a slow call with 303 and the address of
// its result.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > maxRedirects {
		return errors.New("the server redirects in circles")
	}
	status := req.Response.StatusCode
	keeps := req.Method == first.Method || status == http.StatusSeeOther
	if origin(req.URL) != origin(first.URL) || !keeps {
		return &errRedirect{to: req.URL}
	}
	return nil
}

// origin returns "scheme://host:port" with the port always there.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// call is one request.
type call struct {
	name   string // of the endpoint, or a path below it: jobs/ID/events
	method string
	query  url.Values
	body   []byte
	secret *string // nil sends no header
	accept string
	after  string // Last-Event-ID; "" sends none
}

// post returns a call with the client's own secret.
func (c *Client) post(name string, body []byte) call {
	return call{name: name, method: http.MethodPost, body: body, secret: c.secret(), accept: "application/json"}
}

func (c *Client) secret() *string {
	if c.opts.Secret == "" {
		return nil
	}
	return &c.opts.Secret
}

// do sends one request and returns the answer with its body open. Errors are
// finished. ctx bounds the body too.
func (c *Client) do(ctx context.Context, r call) (*http.Response, error) {
	address := c.opts.Endpoint.URL(r.name)
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		body = strings.NewReader(string(r.body))
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Accept", r.accept)
	// Unasked, net/http would ask for gzip, and proxies hold back a stream
	// that they compress.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.opts.Language != "" {
		req.Header.Set("Accept-Language", c.opts.Language)
	}
	if r.secret != nil {
		req.Header.Set(SecretHeader, *r.secret)
	}
	if r.after != "" {
		req.Header.Set("Last-Event-ID", r.after)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, r.name, err)
	}
	return resp, nil
}
