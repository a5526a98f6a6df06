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

// Dialect is the protocol of an upstream.
type Dialect interface {
	// Request returns the request for call; base is the upstream's address,
	// without a trailing slash. secrets are the credentials in the request, which
	// are removed from the answer. The error is ErrNoCredential, ErrNoModel, or a
	// failure on the way.
	Request(ctx context.Context, base string, call Call) (req *http.Request, secrets []string, err error)
	// Answer converts resp to an answer of the Messages API. The body of an error
	// (status 400 and up) has at most 64 KiB and is in memory.
	Answer(call Call, resp *http.Response)
	// Regional reports whether call is sent to an endpoint of one region, which
	// costs more than the global one.
	Regional(call Call) bool
}

// ErrNoModel refuses a model whose name is invalid at an upstream, without a
// request to it. It is not a failure of the upstream.
var ErrNoModel = errors.New("the upstream cannot have this model")

// SetBody replaces the body of resp by text in memory.
func SetBody(resp *http.Response, text []byte) {
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
}

// SetError makes resp an error in the API's form, with the error type of status.
func SetError(resp *http.Response, status int, message string) {
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	resp.Header.Set("Content-Type", "application/json")
	resp.StatusCode = status
	SetBody(resp, (&apiError{status: status, message: truncate(message, maxErrorMessage)}).body())
}

// TranslateError converts an error answer of a cloud, whose body is in memory, to
// the API's form, with the API's status for the cloud's error type: kind, or the
// one in the body. An error that already has the API's form is unchanged, and so
// is a page of HTML, which is from something in front of the cloud.
func TranslateError(resp *http.Response, kind string) {
	text, _ := io.ReadAll(resp.Body)
	SetBody(resp, text)
	e := parseUpstreamError(text)
	if e.page || textOf(members(text)["type"]) == "error" {
		return
	}
	SetError(resp, KindStatus(cmp.Or(kind, e.kind), resp.StatusCode), e.message)
}

// ErrorEvent returns an error in the API's form as the last event of a stream.
func ErrorEvent(status int, message string) []byte {
	return (&apiError{status: status, message: truncate(message, maxErrorMessage)}).event()
}

// APIConfig configures the address of the model API and its key.
type APIConfig struct {
	// Name of this upstream in answers; "" is "anthropic".
	Name string
	// BaseURL is the address without "/v1", such as https://host or
	// https://host/prefix. Plain http is allowed for localhost and for loopback
	// and private addresses, for others only with AllowHTTP.
	BaseURL   string
	AllowHTTP bool
	// Key returns the key. It is called for each request, so a new key takes
	// effect immediately; an error refuses the request with ErrNoCredential. The
	// key is sent in Authorization if Bearer is set, else in X-Api-Key. If
	// Keyless is set, none is sent.
	Key     func() (string, error)
	Bearer  bool
	Keyless bool
	// Dialect is for an upstream that does not implement the Messages API; it
	// provides its own credential, and Key is not used.
	Dialect Dialect
	// Repair is what the operator does if the credential is refused: see
	// Answer.Repair.
	Repair string
	// Proxy selects the outgoing proxy like http.Transport.Proxy; optional.
	Proxy func(*http.Request) (*url.URL, error)
	// TLS is cloned; if nil, the host's certificates are trusted.
	TLS *tls.Config
}

// defaultRepair is the default of APIConfig.Repair and Answer.Repair.
const defaultRepair = "replace its key"

// Reasons of the errors of NewAPIUpstream and CheckBaseURL.
const (
	ReasonAddress dreamcore.Reason = "model.address" // of the model API
	ReasonNoKey   dreamcore.Reason = "model.no-key"
)

// maxErrorBody bounds the body of an error answer.
const maxErrorBody = 64 << 10

// APIUpstream is the model API over the network. The caller of NewAPIUpstream
// must call Close.
type APIUpstream struct {
	name      string
	base      string
	repair    string
	dialect   Dialect
	transport *http.Transport
}

// NewAPIUpstream checks cfg without using the network. Its errors have
// dreamcore.CodeInvalid and a reason.
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
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonNoKey, Message: "the model API needs a key"}
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
		DisableCompression:     true, // usage is read from the stream
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
	}}, nil
}

// Close closes idle connections; running calls are not affected.
func (u *APIUpstream) Close() error {
	u.transport.CloseIdleConnections()
	return nil
}

// Send implements Upstream. The Body of an error answer (status 400 and up) has
// at most 64 KiB. No Body contains the key, even if the API echoes it.
func (u *APIUpstream) Send(ctx context.Context, call Call) (*Answer, error) {
	answer := &Answer{Upstream: u.name, Model: call.Model, Repair: u.repair, Regional: u.dialect.Regional(call)}
	req, secrets, err := u.dialect.Request(ctx, u.base, call)
	switch {
	case errors.Is(err, ErrNoModel):
		answer.Response, answer.Own = &http.Response{}, true
		SetError(answer.Response, http.StatusNotFound, "This model is not available here.")
		return answer, nil
	case errors.Is(err, ErrNoCredential):
		return nil, &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "upstream " + u.name, Hint: u.repair, Err: err}
	case err != nil:
		return nil, err
	}
	resp, err := u.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("reach the model API: %s", redactAll(err.Error(), secrets))
	}
	// The request contains the key and is not needed any more.
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
			text = nil // the status is enough
		}
		SetBody(resp, []byte(redactAll(string(text), secrets)))
	}
	u.dialect.Answer(call, resp)
	if resp.StatusCode == http.StatusOK {
		unmask(resp, secrets)
	}
	if resp.StatusCode < 400 {
		// After the dialect, which may decode the body.
		resp.Body = scrub(resp.Body, secrets)
	}
	answer.Response = resp
	return answer, nil
}

// unmask sets the status of a short answer with status 200 that is an error, so
// that the next upstream is tried as for that status.
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
	SetBody(resp, []byte(redactAll(string(text), secrets)))
}

// Transport returns the transport of the upstream's requests, for a Dialect that
// must fetch its credential the same way.
func (u *APIUpstream) Transport() http.RoundTripper { return u.transport }

// plain is the Messages API itself.
type plain struct {
	key    func() (string, error) // nil if no key is sent
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

func (plain) Regional(Call) bool { return false }

// CheckCredential returns key without surrounding white space, or
// ErrNoCredential if it cannot be sent in a header.
func CheckCredential(key string) (string, error) {
	key = strings.TrimSpace(key)
	if key == "" {
		return "", fmt.Errorf("%w: it is empty", ErrNoCredential)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return "", fmt.Errorf("%w: it has invalid characters", ErrNoCredential)
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

// redactTail is the number of last characters of a key that are redacted on
// their own too.
const redactTail = 8

// redact replaces each occurrence of key in s, also of its tail alone.
func redact(s, key string) string {
	tail := key[max(0, len(key)-redactTail):]
	var b strings.Builder
	for {
		at := strings.Index(s, tail)
		if at < 0 {
			b.WriteString(s)
			return b.String()
		}
		start, left := at, len(key)-len(tail)
		for start > 0 && left > 0 && s[start-1] == key[left-1] {
			start, left = start-1, left-1
		}
		b.WriteString(s[:start])
		b.WriteString("[redacted]")
		s = s[at+len(tail):]
	}
}

// CheckBaseURL returns the address of a model API in normal form, or an error
// with dreamcore.CodeInvalid and ReasonAddress.
func CheckBaseURL(raw string, allowHTTP bool) (string, error) {
	invalid := func(why, hint string) error {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonAddress, Message: "the address of the model API " + why, Hint: hint}
	}
	const example = "set ANTHROPIC_BASE_URL to an address like https://api.example.com"
	u, err := url.Parse(raw)
	// The address is not quoted: it may contain a password.
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return "", invalid("is not a URL", example)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", invalid("must not have a user, a query or a fragment", example)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", invalid("must begin with https://", example)
	case u.Scheme == "http" && !allowHTTP && !privateHost(u.Hostname()):
		return "", invalid("would send the key in clear text over http", "use https://, or a loopback or private address")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if path == "/v1" || strings.HasSuffix(path, "/v1") {
		return "", invalid("must not end with /v1", "omit /v1: the paths are appended to the address")
	}
	return u.Scheme + "://" + u.Host + path, nil
}

// privateHost reports whether host is in the operator's own network. It does not
// resolve names: the result could change before the connection is made.
func privateHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLoopback() || ip.IsPrivate())
}
