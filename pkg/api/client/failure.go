package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// maxText bounds what of a server's text goes into an error, in bytes.
const maxText = 300

// errTimeout is the cause of a context that ended by a limit of the client.
type errTimeout struct {
	what string
	d    time.Duration
}

func (e *errTimeout) Error() string { return "no " + e.what + " within " + term.Duration(e.d) }

// cause is the text of an error that may quote the server: cleaned, and
// without the secret. The error itself stays in the chain for errors.Is.
type cause struct {
	text string
	err  error
}

func (e *cause) Error() string { return e.text }
func (e *cause) Unwrap() error { return e.err }

// text makes foreign text fit for an error: one line, no control characters,
// bounded, and the secret blotted out, which a server could echo.
func (c *Client) text(s string) string {
	if len(s) > 4*maxText {
		s = s[:4*maxText]
	}
	s = strings.Join(strings.Fields(term.Clean(s)), " ")
	if c.opts.Secret != "" {
		s = blot(s, c.opts.Secret)
	}
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// blot removes secret and, at the end of s, a piece of it that a cut has left.
func blot(s, secret string) string {
	s = strings.ReplaceAll(s, secret, "[secret]")
	for n := min(len(secret)-1, len(s)); n >= 8; n-- {
		if strings.HasSuffix(s, secret[:n]) {
			return s[:len(s)-n] + "[secret]"
		}
	}
	return s
}

func (c *Client) cause(err error) error {
	return &cause{text: c.text(err.Error()), err: err}
}

func (c *Client) unreachable(message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: message, Hint: hint, Err: c.cause(err)}
}

// transportError explains why a request got no answer, or a stream ended.
func (c *Client) transportError(ctx context.Context, name string, err error) error {
	at := c.opts.Endpoint.host(name)
	if ctx.Err() != nil {
		why := context.Cause(ctx)
		if t, ok := errors.AsType[*errTimeout](why); ok {
			return c.unreachable(fmt.Sprintf("%s: no %s from %s within %s", name, t.what, at, term.Duration(t.d)),
				"look at the server's log, or allow more time with --timeout", why)
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return c.unreachable(fmt.Sprintf("%s: %s did not finish in time", name, at),
				"look at the server's log, or allow more time with --timeout", why)
		}
		return fmt.Errorf("%s: %w", name, why)
	}
	if e, ok := errors.AsType[*errRedirect](err); ok {
		return c.unreachable(name+": "+at+" redirects to "+c.text(e.target()),
			"if that is your server, give its address with --endpoint; the secret is sent to one server only", e)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return c.unreachable("the name "+c.text(e.Name)+" is not known", "check the address that --endpoint or MODAL_ENDPOINT gives", e)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return c.unreachable("nothing listens at "+at, "start the server (dreamcore serve), or check the port", err)
	}
	if message, hint, ok := tlsFault(err); ok {
		return c.unreachable(at+": "+message, hint, err)
	}
	return c.unreachable("cannot reach "+at, "check the address that --endpoint or MODAL_ENDPOINT gives, and that the server runs", err)
}

// tlsFault explains the usual faults of a certificate or a scheme.
func tlsFault(err error) (message, hint string, ok bool) {
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "the server speaks plain HTTP", "use http:// in the address", true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		if _, ok := errors.AsType[x509.HostnameError](err); ok {
			return "the certificate is for another name", "use the name that the certificate has", true
		}
		return "the certificate is not trusted", "install the authority's certificate on this machine (SSL_CERT_FILE names another file)", true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the server does not speak TLS", "use http:// in the address", true
	}
	return "", "", false
}

// statusError makes an error of an answer whose status is not 200. body is the
// beginning of the answer.
func (c *Client) statusError(name string, resp *http.Response, body []byte) error {
	code, hint := statusCode(resp)
	said := struct {
		Error string `json:"error"`
		Hint  string `json:"hint"`
	}{}
	// Whatever it is if no JSON object: the status tells enough.
	_ = json.Unmarshal(body, &said)
	message := fmt.Sprintf("%s: the server answered %d", name, resp.StatusCode)
	if text := http.StatusText(resp.StatusCode); text != "" {
		message += " " + text
	}
	if said.Error != "" {
		message = fmt.Sprintf("%s: %s (%d)", name, c.text(said.Error), resp.StatusCode)
	}
	if hint == "" {
		hint = c.text(said.Hint)
	}
	return &dreamcore.Error{Code: code, Message: message, Hint: hint}
}

func statusCode(resp *http.Response) (code dreamcore.Code, hint string) {
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return dreamcore.CodeUnauthorized, "give the server's secret with --secret-file or MODAL_INTERNAL_SECRET; " +
			"on the server: dreamcore secret show modal-internal-secret"
	case http.StatusBadRequest:
		return dreamcore.CodeInvalid, ""
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return dreamcore.CodeNotFound, "" // a missing file, or no server of the contract
	case http.StatusConflict:
		return dreamcore.CodeConflict, retryHint(resp, "wait for the running generation to end")
	case http.StatusTooManyRequests:
		return dreamcore.CodeBusy, retryHint(resp, "try again in a moment")
	case http.StatusRequestEntityTooLarge:
		return dreamcore.CodeTooLarge, ""
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return dreamcore.CodeUnreachable, retryHint(resp, "a proxy answered, not the server: check that the server runs")
	}
	return dreamcore.CodeInternal, ""
}

func retryHint(resp *http.Response, otherwise string) string {
	const day = 24 * 60 * 60
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 && s <= day {
		return "try again in " + term.Duration(time.Duration(s)*time.Second)
	}
	return otherwise
}

// malformed is the error of an answer that is not the contract's.
func (c *Client) malformed(name, fault string) error {
	return &dreamcore.Error{
		Code:    dreamcore.CodeInternal,
		Message: name + ": malformed answer: " + fault,
		Hint:    "check that " + c.opts.Endpoint.URL(name) + " is a dreamcore server",
	}
}
