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

// maxText bounds the part of a server's text that an error quotes, in bytes.
const maxText = 300

// errTimeout is the cause of a context that was ended by a timeout of the client.
type errTimeout struct {
	what string
	d    time.Duration
}

func (e *errTimeout) Error() string { return "no " + e.what + " within " + term.Duration(e.d) }

// cause is an error whose text may quote the server: the text is cleaned and the
// secret removed. The original error stays in the chain for errors.Is.
type cause struct {
	text string
	err  error
}

func (e *cause) Error() string { return e.text }
func (e *cause) Unwrap() error { return e.err }

// text prepares text of a server for an error: one line, no control characters,
// bounded, and without the secret, which a server could echo.
func (c *Client) text(s string) string {
	if len(s) > 4*maxText {
		s = s[:4*maxText]
	}
	s = strings.Join(strings.Fields(term.Clean(s)), " ")
	if c.opts.Secret != "" {
		s = redact(s, c.opts.Secret)
	}
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// redact replaces the secret and, at the end of s, a truncated secret.
func redact(s, secret string) string {
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

// Reasons of errors.
const (
	ReasonAddress    dreamcore.Reason = "client.address"     // the server cannot be found at its address
	ReasonNoSecret   dreamcore.Reason = "client.no_secret"   // a file with the secret contains none
	ReasonSecretFile dreamcore.Reason = "client.secret_file" // a file with the secret cannot be read
	ReasonRedirect   dreamcore.Reason = "client.redirect"    // the server redirects to another one
	ReasonExpired    dreamcore.Reason = "client.expired"     // the job is too old: its events were removed
	ReasonKeyReused  dreamcore.Reason = "client.key_reused"  // the idempotency key belongs to another request
	ReasonRefused    dreamcore.Reason = "client.refused"     // no process listens on the port
	ReasonSecret     dreamcore.Reason = "client.secret"      // the secret is missing or wrong
	ReasonTimeout    dreamcore.Reason = "client.timeout"     // no answer in time
	ReasonTLS        dreamcore.Reason = "client.tls"         // a certificate, or the wrong scheme
)

func (c *Client) unreachable(reason dreamcore.Reason, message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeUnreachable, Reason: reason, Message: message, Hint: hint, Err: c.cause(err)}
}

// transportError returns the error for a request without an answer, or for a
// stream that ended early.
func (c *Client) transportError(ctx context.Context, name string, err error) error {
	at := c.endpoint.host(name)
	if ctx.Err() != nil {
		why := context.Cause(ctx)
		if t, ok := errors.AsType[*errTimeout](why); ok {
			return c.unreachable(ReasonTimeout, fmt.Sprintf("%s: no %s from %s within %s", name, t.what, at, term.Duration(t.d)),
				"look at the server's log", why)
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return c.unreachable(ReasonTimeout, fmt.Sprintf("%s: %s did not finish in time", name, at), "look at the server's log", why)
		}
		return fmt.Errorf("%s: %w", name, why)
	}
	if e, ok := errors.AsType[*errRedirect](err); ok {
		return c.unreachable(ReasonRedirect, name+": "+at+" redirects to "+c.text(e.target()), "the secret is sent to one server only", e)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return c.unreachable(ReasonAddress, "the host name "+c.text(e.Name)+" is not known", "", e)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return c.unreachable(ReasonRefused, "nothing listens at "+at, "check the port", err)
	}
	if message, hint, ok := tlsFault(err); ok {
		return c.unreachable(ReasonTLS, at+": "+message, hint, err)
	}
	return c.unreachable(ReasonAddress, "cannot reach "+at, "check that the server runs", err)
}

// tlsFault describes the usual errors of certificates and schemes.
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

// statusError returns the error for an answer whose status is not 200. body is
// the beginning of the answer.
func (c *Client) statusError(name string, resp *http.Response, body []byte) error {
	code, reason, hint := statusCode(resp)
	said := struct {
		Error string         `json:"error"`
		Hint  string         `json:"hint"`
		Code  dreamcore.Code `json:"code"`
	}{}
	// If the body is not a JSON object, the status has to do.
	_ = json.Unmarshal(body, &said)
	message := fmt.Sprintf("%s: the server answered %d", name, resp.StatusCode)
	if text := http.StatusText(resp.StatusCode); text != "" {
		message += " " + text
	}
	if said.Error != "" {
		message = fmt.Sprintf("%s: %s (%d)", name, c.text(said.Error), resp.StatusCode)
	}
	if resp.StatusCode == http.StatusForbidden && said.Code == dreamcore.CodeBlocked {
		code, reason = said.Code, ""
	}
	if hint == "" {
		hint = c.text(said.Hint)
	}
	return &dreamcore.Error{Code: code, Reason: reason, Message: message, Hint: hint}
}

func statusCode(resp *http.Response) (code dreamcore.Code, reason dreamcore.Reason, hint string) {
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return dreamcore.CodeUnauthorized, ReasonSecret, ""
	case http.StatusBadRequest:
		return dreamcore.CodeInvalid, "", ""
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return dreamcore.CodeNotFound, "", "" // a missing file, or another kind of server
	case http.StatusGone:
		return dreamcore.CodeNotFound, ReasonExpired, ""
	case http.StatusUnprocessableEntity:
		return dreamcore.CodeInvalid, ReasonKeyReused, ""
	case http.StatusConflict:
		return dreamcore.CodeConflict, "", retryHint(resp, "wait for the running generation to end")
	case http.StatusTooManyRequests:
		return dreamcore.CodeBusy, "", retryHint(resp, "try again in a moment")
	case http.StatusRequestEntityTooLarge:
		return dreamcore.CodeTooLarge, "", ""
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return dreamcore.CodeUnreachable, "", retryHint(resp, "a proxy answered, not the server: check that the server runs")
	}
	return dreamcore.CodeInternal, "", ""
}

func retryHint(resp *http.Response, otherwise string) string {
	const day = 24 * 60 * 60
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 && s <= day {
		return "try again in " + term.Duration(time.Duration(s)*time.Second)
	}
	return otherwise
}

// malformed returns the error for an answer that violates the contract.
func (c *Client) malformed(name, fault string) error {
	return &dreamcore.Error{
		Code:    dreamcore.CodeInternal,
		Message: name + ": malformed answer: " + fault,
		Hint:    "check that " + c.endpoint.URL(name) + " is a dreamcore server",
	}
}
