// Package kube reads and writes the few objects of Kubernetes that a cluster of cells
// has: one ConfigMap with the map of cells, the EndpointSlices of their service, and a
// Lease of each cell.
// It speaks to the API server with the account of the pod, over net/http alone.
//
// kube.go has the client and its requests, watch.go follows objects, object.go decodes
// them, lease.go has leases. Everything that the API server sends is bounded.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Bounds of what the API server sends.
const (
	maxObject = 4 << 20  // one object or event
	maxList   = 32 << 20 // a list
	maxFault  = 64 << 10 // the body of an error
)

const (
	requestLimit = 15 * time.Second
	dialLimit    = 5 * time.Second
	// A connection that is lost without a word is noticed by a ping.
	pingAfter = 15 * time.Second
	pingLimit = 10 * time.Second
)

// Config says where the API server is and who the client is.
type Config struct {
	Server  string // https://HOST:PORT
	Account string // directory of a service account: token, ca.crt and namespace
	Logger  *slog.Logger
}

// Client is a client of one namespace. Its methods are safe for concurrent use.
type Client struct {
	server    *url.URL
	account   string
	namespace string
	http      *http.Client
	log       *slog.Logger
}

// New returns a client. The error is CodeSetup if the account cannot be read.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("%q is not the address of an API server: https://HOST:PORT", cfg.Server), Err: err}
	}
	c := &Client{server: u, account: cfg.Account, log: cfg.Logger}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	ca, err := c.accountFile("ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, setupError(fmt.Errorf("%s holds no certificate", filepath.Join(cfg.Account, "ca.crt")))
	}
	namespace, err := c.accountFile("namespace")
	if err != nil {
		return nil, err
	}
	if c.namespace = strings.TrimSpace(string(namespace)); c.namespace == "" || c.namespace != url.PathEscape(c.namespace) {
		return nil, setupError(fmt.Errorf("%q is not a namespace", c.namespace))
	}
	if _, err := c.token(); err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true, TLSHandshakeTimeout: dialLimit, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: requestLimit,
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingLimit},
		},
		// The token must not follow a redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Server returns the address of the API server.
func (c *Client) Server() string { return c.server.String() }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// maxAccountFile bounds a file of the service account.
const maxAccountFile = 1 << 20

func (c *Client) accountFile(name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(c.account, name))
	if err != nil {
		return nil, setupError(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxAccountFile+1))
	if err == nil && len(raw) > maxAccountFile {
		err = fmt.Errorf("%s is too large", f.Name())
	}
	if err != nil {
		return nil, setupError(err)
	}
	return raw, nil
}

func setupError(err error) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "cannot read the service account of Kubernetes", Err: err,
		Hint: "mount it into the pod (automountServiceAccountToken), or name the cells in a file with --cells",
	}
}

// token returns the token of the account, which the kubelet replaces every hour.
func (c *Client) token() (string, error) {
	raw, err := c.accountFile("token")
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(raw))
	if token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", setupError(errors.New("the token is not one"))
	}
	return token, nil
}

// Collections of a namespace.
const (
	configMaps     = "/api/v1/namespaces/%s/configmaps"
	endpointSlices = "/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices"
)

// path returns the path of a collection, or of the object with this name in it.
func (c *Client) path(collection, name string) string {
	path := fmt.Sprintf(collection, c.namespace)
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return path
}

// ConfigMap is an object with texts by name. Version is that of its last change.
type ConfigMap struct {
	Name    string
	Version string
	Data    map[string]string
	Labels  map[string]string
}

// ConfigMap returns an object. The error is CodeNotFound if it does not exist.
func (c *Client) ConfigMap(ctx context.Context, name string) (ConfigMap, error) {
	var o configMap
	err := c.do(ctx, http.MethodGet, c.path(configMaps, name), nil, &o)
	return o.ConfigMap(), err
}

// Create creates an object and returns it with its version. The error is CodeConflict
// if it exists.
func (c *Client) Create(ctx context.Context, m ConfigMap) (ConfigMap, error) {
	var o configMap
	err := c.do(ctx, http.MethodPost, c.path(configMaps, ""), configMapOf(m), &o)
	return o.ConfigMap(), err
}

// Replace replaces an object and returns it with its new version. The error is
// CodeConflict if it has changed since m.Version, which must be set: the caller has to
// read it again.
func (c *Client) Replace(ctx context.Context, m ConfigMap) (ConfigMap, error) {
	if m.Version == "" {
		return ConfigMap{}, errors.New("kube: Replace without a version")
	}
	var o configMap
	err := c.do(ctx, http.MethodPut, c.path(configMaps, m.Name), configMapOf(m), &o)
	return o.ConfigMap(), err
}

// do sends a request and decodes its answer.
func (c *Client) do(ctx context.Context, method, path string, send, receive any) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	resp, err := c.send(ctx, method, path, nil, send)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := readBounded(resp.Body, maxObject)
	if err != nil {
		return unreachable(err)
	}
	return json.Unmarshal(raw, receive)
}

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("the answer of the API server has more than %d bytes", limit)
	}
	return raw, err
}

// send sends a request and returns a successful answer, whose body the caller must
// close.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	u := *c.server
	u.Path, u.RawQuery = path, query.Encode()
	var content io.Reader = http.NoBody
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(raw)
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), content)
	if err != nil {
		return nil, err
	}
	token, err := c.token()
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", dreamcore.AppName)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, unreachable(err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

func unreachable(err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "the API server of Kubernetes does not answer", Err: err}
}

// errGone is the error of a version that the API server no longer has.
var errGone = errors.New("the API server no longer has this version")

// refusal returns the error of an answer that is not a success.
func refusal(resp *http.Response) error {
	var s status
	raw, err := readBounded(resp.Body, maxFault)
	if err == nil {
		_ = json.Unmarshal(raw, &s) // a proxy in between sends another body
	}
	return statusError(resp.StatusCode, s.Message)
}

// statusError returns the error of a status.
func statusError(code int, message string) error {
	cause := fmt.Errorf("status %d: %.500s", code, message)
	switch code {
	case http.StatusNotFound:
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "the object does not exist in Kubernetes", Err: cause}
	case http.StatusConflict:
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "the object in Kubernetes was changed by another client", Err: cause}
	case http.StatusUnauthorized, http.StatusForbidden:
		return &dreamcore.Error{
			Code: dreamcore.CodeUnauthorized, Message: "Kubernetes refuses the service account", Err: cause,
			Hint: "grant a router get, list and watch of configmaps and endpointslices, what changes the map also create and update of configmaps, and a cell get, list, create and update of leases",
		}
	case http.StatusGone:
		return errors.Join(errGone, cause)
	}
	return unreachable(cause)
}
