package gateway

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// APIConfig says where the model API is and with which key it is used.
type APIConfig struct {
	// Name of this upstream in answers; "" is "anthropic".
	Name string
	// BaseURL is the address without "/v1", such as https://host or
	// https://host/prefix. Plain http is taken for localhost and for loopback
	// and private addresses, for others only with AllowHTTP.
	BaseURL   string
	AllowHTTP bool
	// Key returns the key. It is called for each request, so a new key works
	// at once; an error refuses the request with ErrNoCredential.
	Key func() (string, error)
	// Proxy chooses the outgoing proxy as http.Transport.Proxy does; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is cloned; nil trusts the machine's certificates.
	TLS *tls.Config
}

// maxErrorBody bounds what is read of an answer that reports an error.
const maxErrorBody = 64 << 10

// APIUpstream is the model API over the network. The caller that made it
// calls Close.
type APIUpstream struct {
	name      string
	base      string
	key       func() (string, error)
	transport *http.Transport
}

// NewAPIUpstream checks cfg without using the network. Its errors have
// dreamcore.CodeInvalid.
func NewAPIUpstream(cfg APIConfig) (*APIUpstream, error) {
	base, err := checkBaseURL(cfg.BaseURL, cfg.AllowHTTP)
	if err != nil {
		return nil, err
	}
	if cfg.Key == nil {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the model API needs a key", Hint: "dreamcore setup"}
	}
	tlsConfig := cfg.TLS.Clone()
	if tlsConfig == nil {
		tlsConfig = &tls.Config{}
	}
	tlsConfig.MinVersion = max(tlsConfig.MinVersion, tls.VersionTLS12)
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &APIUpstream{name: cmp.Or(cfg.Name, "anthropic"), base: base, key: cfg.Key, transport: &http.Transport{
		Proxy:                  cfg.Proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // usage is read from the stream as it passes
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
	}}, nil
}

// Close closes the connections that are idle; running calls end by themselves.
func (u *APIUpstream) Close() error {
	u.transport.CloseIdleConnections()
	return nil
}

// Send implements Upstream. The Body of an error answer (status 400 and up) is
// at most 64 KiB and does not hold the key, whatever the API wrote.
func (u *APIUpstream) Send(ctx context.Context, call Call) (*Answer, error) {
	key, err := u.credential()
	if err != nil {
		return nil, err
	}
	req, err := newRequest(ctx, u.base, call)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Api-Key", key)
	resp, err := u.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("reach the model API: %s", redact(err.Error(), key))
	}
	// The request holds the key; nobody after this line needs it.
	resp.Request = nil
	for name, values := range resp.Header {
		for i, v := range values {
			resp.Header[name][i] = redact(v, key)
		}
	}
	if resp.StatusCode >= 400 {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		resp.Body.Close()
		if err != nil {
			text = nil // the status says enough
		}
		clean := redact(string(text), key)
		resp.Body = io.NopCloser(bytes.NewReader([]byte(clean)))
		resp.ContentLength = int64(len(clean))
	}
	return &Answer{Response: resp, Upstream: u.name, Model: call.Model}, nil
}

func (u *APIUpstream) credential() (string, error) {
	key, err := u.key()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoCredential, err)
	}
	key = strings.TrimSpace(key)
	if key == "" {
		return "", fmt.Errorf("%w: it is empty", ErrNoCredential)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return "", fmt.Errorf("%w: it has characters that no key has", ErrNoCredential)
		}
	}
	return key, nil
}

// redactTail is how many last characters of a key give it away.
const redactTail = 8

// redact replaces each occurrence of key in s, also of its end alone.
func redact(s, key string) string {
	tail := key[max(0, len(key)-redactTail):]
	var b strings.Builder
	for {
		at := strings.Index(s, tail)
		if at < 0 {
			b.WriteString(s)
			return b.String()
		}
		start, rest := at, len(key)-len(tail)
		for start > 0 && rest > 0 && s[start-1] == key[rest-1] {
			start, rest = start-1, rest-1
		}
		b.WriteString(s[:start])
		b.WriteString("[redacted]")
		s = s[at+len(tail):]
	}
}

func checkBaseURL(raw string, allowHTTP bool) (string, error) {
	invalid := func(why, hint string) error {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the address of the model API " + why, Hint: hint}
	}
	const example = "set ANTHROPIC_BASE_URL to an address like https://api.example.com"
	u, err := url.Parse(raw)
	// The text is not quoted: it may hold a password.
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return "", invalid("is no URL", example)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", invalid("must not have a user, a query or a fragment", example)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", invalid("must begin with https://", example)
	case u.Scheme == "http" && !allowHTTP && !privateHost(u.Hostname()):
		return "", invalid("would send the key in clear text over http", "use https://, or a loopback or private address")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if path == "/v1" || strings.HasSuffix(path, "/v1") {
		return "", invalid("must not end with /v1", "leave /v1 off: the paths are added to the address")
	}
	return u.Scheme + "://" + u.Host + path, nil
}

// privateHost tells whether host never leaves the operator's own network. It
// asks no name service: an answer could change between now and the dial.
func privateHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLoopback() || ip.IsPrivate())
}
