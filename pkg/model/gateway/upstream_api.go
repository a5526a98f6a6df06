package gateway

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
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

// Dialect is how an upstream is talked to.
type Dialect interface {
	// Request makes the request for call; base is the upstream's address,
	// without a slash at its end. The secrets are in the request: they are kept
	// out of the answer. An error is ErrNoCredential, a *Refusal, or what went
	// wrong on the way.
	Request(ctx context.Context, base string, call Call) (req *http.Request, secrets []string, err error)
	// Answer makes resp what the Messages API would have answered. The body of
	// one with a status of 400 and up has at most 64 KiB and is in memory.
	Answer(call Call, resp *http.Response)
}

// RegionalDialect is a Dialect whose upstream has endpoints of one region, at a
// higher price, beside a global one.
type RegionalDialect interface {
	// Regional reports whether call goes to the endpoint of one region.
	Regional(call Call) bool
}

// Refusal is an answer that is known without asking the upstream, in the API's
// error form. It is no fault of the upstream.
type Refusal struct {
	Status  int
	Message string
}

func (r *Refusal) Error() string { return r.Message }

// ErrorBody makes resp an error in the API's form; kind "" is that of status.
func ErrorBody(resp *http.Response, status int, kind, message string) {
	body := (&apiError{status: status, kind: kind, message: truncate(message, maxErrorMessage)}).body()
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	resp.Header.Set("Content-Type", "application/json")
	resp.StatusCode = status
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// ErrorEvent is an error in the API's form as the last event of a stream.
func ErrorEvent(status int, message string) []byte {
	return (&apiError{status: status, message: truncate(message, maxErrorMessage)}).event()
}

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
	// at once; an error refuses the request with ErrNoCredential. With Bearer
	// it goes into Authorization, else into X-Api-Key. Keyless sends none.
	Key     func() (string, error)
	Bearer  bool
	Keyless bool
	// Dialect of an upstream that does not speak the Messages API; it brings
	// its own credential, Key is not used then.
	Dialect Dialect
	// Repair is the command that replaces a credential that is refused.
	Repair string
	// Proxy chooses the outgoing proxy as http.Transport.Proxy does; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is cloned; nil trusts the machine's certificates.
	TLS *tls.Config
}

// defaultRepair replaces the vendor's key.
const defaultRepair = "dreamcore setup --rotate anthropic-api-key"

// maxErrorBody bounds what is read of an answer that reports an error.
const maxErrorBody = 64 << 10

// APIUpstream is the model API over the network. The caller that made it
// calls Close.
type APIUpstream struct {
	name      string
	base      string
	repair    string
	dialect   Dialect
	transport *http.Transport
}

// NewAPIUpstream checks cfg without using the network. Its errors have
// dreamcore.CodeInvalid.
func NewAPIUpstream(cfg APIConfig) (*APIUpstream, error) {
	base, err := CheckBaseURL(cfg.BaseURL, cfg.AllowHTTP)
	if err != nil {
		return nil, err
	}
	dialect := cfg.Dialect
	switch {
	case dialect != nil:
	case cfg.Keyless:
		dialect = plain{}
	case cfg.Key != nil:
		dialect = plain{key: cfg.Key, bearer: cfg.Bearer}
	default:
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the model API needs a key", Hint: "dreamcore setup"}
	}
	tlsConfig := cfg.TLS.Clone()
	if tlsConfig == nil {
		tlsConfig = &tls.Config{}
	}
	tlsConfig.MinVersion = max(tlsConfig.MinVersion, tls.VersionTLS12)
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &APIUpstream{name: cmp.Or(cfg.Name, "anthropic"), base: base, repair: cmp.Or(cfg.Repair, defaultRepair), dialect: dialect, transport: &http.Transport{
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
// at most 64 KiB. No Body holds the key, whatever the API wrote.
func (u *APIUpstream) Send(ctx context.Context, call Call) (*Answer, error) {
	answer := &Answer{Upstream: u.name, Model: call.Model, Repair: u.repair}
	if d, ok := u.dialect.(RegionalDialect); ok {
		answer.Regional = d.Regional(call)
	}
	req, secrets, err := u.dialect.Request(ctx, u.base, call)
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
		answer.Response, answer.Own = &http.Response{}, true
		ErrorBody(answer.Response, refusal.Status, "", refusal.Message)
		return answer, nil
	}
	if errors.Is(err, ErrNoCredential) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "upstream " + u.name, Hint: u.repair, Err: err}
	}
	if err != nil {
		return nil, err
	}
	resp, err := u.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("reach the model API: %s", redactAll(err.Error(), secrets))
	}
	// The request holds the key; nobody after this line needs it.
	resp.Request = nil
	for name, values := range resp.Header {
		for i, v := range values {
			resp.Header[name][i] = redactAll(v, secrets)
		}
	}
	decode(resp)
	if resp.StatusCode >= 400 {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		resp.Body.Close()
		if err != nil {
			text = nil // the status says enough
		}
		clean := redactAll(string(text), secrets)
		resp.Body = io.NopCloser(bytes.NewReader([]byte(clean)))
		resp.ContentLength = int64(len(clean))
	}
	u.dialect.Answer(call, resp)
	if resp.StatusCode == http.StatusOK {
		unmask(resp, secrets)
	}
	if resp.StatusCode < 400 {
		// After the dialect: it may unpack what nothing could be found in.
		resp.Body = scrub(resp.Body, secrets)
	}
	answer.Response = resp
	return answer, nil
}

// unmask gives a short answer in one piece that is an error the status that it
// stands for, so that the next upstream is asked, as with that status.
func unmask(resp *http.Response, secrets []string) {
	if resp.ContentLength <= 0 || resp.ContentLength > maxErrorBody || mediaType(resp.Header) == eventsType {
		return
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil || !isError(text) {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(text), resp.Body), resp.Body}
		return
	}
	resp.Body.Close()
	resp.StatusCode = parseUpstreamError(text).statusOr(http.StatusInternalServerError)
	clean := redactAll(string(text), secrets)
	resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(clean)), int64(len(clean))
}

// Transport is how the upstream is reached, for a Dialect that must fetch its
// credential the same way.
func (u *APIUpstream) Transport() http.RoundTripper { return u.transport }

// plain is the Messages API itself.
type plain struct {
	key    func() (string, error) // nil: none is sent
	bearer bool
}

func (p plain) Request(ctx context.Context, base string, call Call) (*http.Request, []string, error) {
	req, err := newRequest(ctx, base, call)
	if err != nil || p.key == nil {
		return req, nil, err
	}
	key, err := p.key()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoCredential, err)
	}
	if key, err = CheckCredential(key); err != nil {
		return nil, nil, err
	}
	if p.bearer {
		req.Header.Set("Authorization", "Bearer "+key)
	} else {
		req.Header.Set("X-Api-Key", key)
	}
	return req, []string{key}, nil
}

func (plain) Answer(Call, *http.Response) {}

// CheckCredential returns what may stand in a header of key, without the white
// space around it, or ErrNoCredential.
func CheckCredential(key string) (string, error) {
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

func redactAll(s string, keys []string) string {
	for _, key := range keys {
		for _, w := range encodings(key) {
			s = redact(s, w)
		}
	}
	return s
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

// CheckBaseURL returns the address of a model API as it is used, or an error
// with dreamcore.CodeInvalid.
func CheckBaseURL(raw string, allowHTTP bool) (string, error) {
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
