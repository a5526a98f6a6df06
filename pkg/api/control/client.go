package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Client sends commands to the service of a state directory.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a client of the service whose socket is in dir. It connects
// on the first call. The caller must Close it.
func NewClient(dir string) *Client {
	c := &Client{path: filepath.Join(dir, SocketName)}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return socket.Dial(ctx, c.path) },
	}}
	return c
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// List returns the sandboxes. The error is CodeUnreachable if no service is
// running.
func (c *Client) List(ctx context.Context) ([]workspace.Info, error) {
	var list struct {
		Sandboxes []workspace.Info `json:"sandboxes"`
	}
	err := c.call(ctx, http.MethodGet, "/sandboxes", nil, &list)
	return list.Sandboxes, err
}

// Stop stops a sandbox.
func (c *Client) Stop(ctx context.Context, name string) error {
	resp, err := c.do(ctx, http.MethodPost, "/sandboxes/"+url.PathEscape(name)+"/stop", nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Logs calls fn with the events of the last job in a sandbox; with follow, until
// the end of the job.
func (c *Client) Logs(ctx context.Context, name string, follow bool, fn func(dreamcore.Event) error) error {
	path := "/sandboxes/" + url.PathEscape(name) + "/logs"
	if follow {
		path += "?follow=1"
	}
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return each(resp.Body, fn)
}

// Exec runs a program in a sandbox and returns its exit code. stdin may be nil.
func (c *Client) Exec(ctx context.Context, name string, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int, err error) {
	path := "/sandboxes/" + url.PathEscape(name) + "/exec?" + url.Values{"arg": args}.Encode()
	if stdin != nil {
		stdin = io.NopCloser(stdin) // a body of known length would not be streamed
	}
	return c.exec(ctx, path, stdin, stdout, stderr)
}

// exec sends a request to run a program and copies the output from the response.
func (c *Client) exec(ctx context.Context, path string, body io.Reader, stdout, stderr io.Writer) (code int, err error) {
	resp, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	ended := false
	err = each(resp.Body, func(f frame) (err error) {
		switch {
		case len(f.Stdout) > 0:
			_, err = stdout.Write(f.Stdout)
		case len(f.Stderr) > 0:
			_, err = stderr.Write(f.Stderr)
		case f.Error != "":
			err = errors.New(f.Error)
		case f.Exit != nil:
			code, ended = *f.Exit, true
		}
		return err
	})
	if err == nil && !ended {
		err = context.Cause(ctx)
		if err == nil {
			err = &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "the service stopped before the program ended", Hint: "see the log of the service"}
		}
	}
	return code, err
}

// PreviewLink returns an address of a game for browsers, and its expiry. With a
// lifetime of 0 the service chooses it. The error is CodeUnreachable if no
// service is running, CodeSetup if it has no previews, and CodeNotFound if the
// project does not exist.
func (c *Client) PreviewLink(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error) {
	query := url.Values{"user": {string(user)}, "project": {string(project)}, "for": {lifetime.String()}}
	var l link
	err = c.call(ctx, http.MethodPost, "/previews?"+query.Encode(), nil, &l)
	return l.URL, l.Expires, err
}

// call sends a request and decodes its answer into to.
func (c *Client) call(ctx context.Context, method, path string, body []byte, to any) error {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	resp, err := c.do(ctx, method, path, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// each calls fn with each JSON value of r.
func each[T any](r io.Reader, fn func(T) error) error {
	dec := json.NewDecoder(r)
	for {
		var v T
		if err := dec.Decode(&v); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
}

// do sends a request and converts an error response into an error. If err is nil,
// the caller must close the response's body.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://dreamcore"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var f fault
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(raw, &f) != nil || f.Error == "" {
		return nil, fmt.Errorf("unexpected response of the service: %s", resp.Status)
	}
	return nil, &dreamcore.Error{Code: f.Code, Reason: f.Reason, Message: f.Error, Hint: f.Hint}
}

func (c *Client) unreachable(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &dreamcore.Error{
			Code: dreamcore.CodeUnreachable, Message: "only the owner of the state directory may do this", Err: err,
			Hint: "run the command with sudo",
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return &dreamcore.Error{
			Code: dreamcore.CodeUnreachable, Reason: ReasonNotRunning, Message: "no service is running on this state directory",
		}
	}
	return &dreamcore.Error{Code: dreamcore.CodeUnreachable, Message: "the service does not respond", Err: err, Hint: "see its log"}
}
