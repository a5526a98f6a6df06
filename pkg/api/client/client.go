package client

import (
	"bytes"
	"cmp"
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
	// DefaultSilence is longer than a run of the CLI (5 min): a backend on Modal
	// sends no keep-alive comments while the model thinks.
	DefaultSilence = 6 * time.Minute
	// maxRedirects within the server's own origin.
	maxRedirects = 5
)

// Options of a Client.
type Options struct {
	Secret    string            // value of SecretHeader; if "", no header is sent
	Transport http.RoundTripper // may be nil
	UserAgent string            // "" for the product's name
	Timeout   time.Duration     // for a whole JSON answer and for the header of a stream; 0 for DefaultTimeout
	Silence   time.Duration     // the longest pause within a stream; 0 for DefaultSilence
}

// Client calls the endpoints of one server. It is safe for concurrent use.
type Client struct {
	endpoint Endpoint
	opts     Options
	http     *http.Client
	maxEvent int // bytes of one event of a stream
}

// New returns a client of the server at address, in any form that ParseEndpoint
// takes. Close frees its idle connections.
func New(address string, o Options) (*Client, error) {
	endpoint, err := ParseEndpoint(address)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(o.Secret, func(r rune) bool { return r < ' ' || r >= 0x7f }) || strings.TrimSpace(o.Secret) != o.Secret {
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeInvalid,
			Message: "the secret has characters that headers cannot carry",
			Hint:    "look for a line break or a blank before or after the secret",
		}
	}
	o.Timeout = cmp.Or(max(o.Timeout, 0), DefaultTimeout)
	o.Silence = cmp.Or(max(o.Silence, 0), DefaultSilence)
	o.UserAgent = cmp.Or(o.UserAgent, dreamcore.AppName)
	if o.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxResponseHeaderBytes = maxAnswer
		o.Transport = t
	}
	return &Client{
		endpoint: endpoint, opts: o, maxEvent: maxEvent,
		http: &http.Client{Transport: o.Transport, CheckRedirect: checkRedirect},
	}, nil
}

// Endpoint returns the address of the server.
func (c *Client) Endpoint() Endpoint { return c.endpoint }

// Secret returns the secret that the client sends.
func (c *Client) Secret() string { return c.opts.Secret }

// Close closes the idle connections. It does not affect running calls.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// errRedirect is the error of a redirect that is not followed.
type errRedirect struct{ to *url.URL }

func (e *errRedirect) Error() string { return "redirect to " + e.target() + " was not followed" }

// target returns the address without its private parts: user, query and fragment.
func (e *errRedirect) target() string { return origin(e.to) + e.to.EscapedPath() }

// checkRedirect never follows a redirect to another origin: net/http strips
// Authorization and cookies there, but not our header. It follows a redirect
// within the origin that keeps the method, and a 303: a backend on Modal answers
// a slow call with 303 and the address of its result.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > maxRedirects {
		return errors.New("the server redirects too often")
	}
	status := req.Response.StatusCode
	keeps := req.Method == first.Method || status == http.StatusSeeOther
	if origin(req.URL) != origin(first.URL) || !keeps {
		return &errRedirect{to: req.URL}
	}
	return nil
}

// origin returns "scheme://host:port", always with the port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

type call struct {
	name   string // of the endpoint, or a path below it: jobs/ID/events
	method string
	query  url.Values
	body   []byte
	stream io.Reader // instead of body
	secret *string   // if nil, no header is sent
	accept string
	after  string // Last-Event-ID; if "", none is sent
	key    string // Idempotency-Key; if "", none is sent

	limit   int64         // bytes of the answer; 0 for maxAnswer
	timeout time.Duration // of the answer, if that is more than the client's own
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

// do sends one request. The caller must close the body of the response. Errors
// need no further wrapping. ctx also bounds the reading of the body.
func (c *Client) do(ctx context.Context, r call) (*http.Response, error) {
	address := c.endpoint.URL(r.name)
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	body := r.stream
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("create request: %w", err)
	}
	req.Header.Set("Accept", r.accept)
	// net/http would ask for gzip by default, and proxies buffer a stream that
	// they compress.
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.secret != nil {
		req.Header.Set(SecretHeader, *r.secret)
	}
	if r.after != "" {
		req.Header.Set("Last-Event-ID", r.after)
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(ctx, r.name, err)
	}
	return resp, nil
}
