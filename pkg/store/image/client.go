package image

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	maxRedirects   = 10
	dialLimit      = 15 * time.Second
	handshakeLimit = 15 * time.Second
)

// client is the transport to registries. It adds protections that the library
// lacks: a bound on every answer but a layer, a bound on redirects and on silence,
// and no fallback from TLS to plain HTTP.
type client struct {
	base  *http.Transport
	stall time.Duration
}

func newClient(proxy func(*http.Request) (*url.URL, error), stall time.Duration) *client {
	return &client{stall: stall, base: &http.Transport{
		Proxy:               proxy,
		DialContext:         (&net.Dialer{Timeout: dialLimit}).DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: handshakeLimit,
		MaxIdleConnsPerHost: parallel,
		IdleConnTimeout:     30 * time.Second,
		// Sizes and digests are those of the transferred bytes.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 256 << 10,
	}}
}

func (c *client) close() { c.base.CloseIdleConnections() }

type blobsKey struct{}

// withBlobs marks requests for layers: the caller bounds their size.
func withBlobs(ctx context.Context) context.Context {
	return context.WithValue(ctx, blobsKey{}, true)
}

// RoundTrip implements http.RoundTripper.
func (c *client) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := check(req); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	silence := time.AfterFunc(c.stall, func() { cancel(errStalled) })
	resp, err := c.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		silence.Stop()
		err = stalled(ctx, err)
		cancel(nil)
		return nil, err
	}
	silence.Stop()
	content := resp.Body
	if req.Context().Value(blobsKey{}) == nil {
		content = http.MaxBytesReader(nil, content, maxDocument)
	}
	// The library uses the request of the response; the copy has another context.
	resp.Request = req
	resp.Body = &body{ReadCloser: content, ctx: ctx, cancel: cancel, silence: silence, stall: c.stall}
	return resp, nil
}

// check refuses too many redirects, and requests without TLS.
func check(req *http.Request) error {
	n := 0
	for r := req; r.Response != nil && r.Response.Request != nil; r = r.Response.Request {
		if n++; n > maxRedirects {
			return flaw("the registry redirects in circles")
		}
	}
	if req.URL.Scheme != "https" && !loopback(req.URL.Hostname()) {
		return errPlain
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// stalled returns errStalled if the stall timer ended the request, else err.
func stalled(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// wireError is an error of the connection, not of the transferred bytes.
type wireError struct{ error }

func (e wireError) Unwrap() error { return e.error }

// body fails if no bytes arrive for some time.
type body struct {
	io.ReadCloser
	ctx     context.Context // of the request
	cancel  context.CancelCauseFunc
	silence *time.Timer
	stall   time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	b.silence.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.silence.Stop() // a slow reader is not a silent registry
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		err = excess("the registry's answer is too long")
	}
	if err != nil && err != io.EOF {
		err = wireError{stalled(b.ctx, err)}
	}
	return n, err
}

func (b *body) Close() error {
	b.silence.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
