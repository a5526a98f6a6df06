package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// maxFiles bounds the list of a project's files.
const maxFiles = 10_000

// ListFiles returns the paths of a project's files, relative and with slashes,
// and the number of files that the service omitted because their names are not
// UTF-8. The paths come from a sandbox: open them through os.Root only.
func (c *Client) ListFiles(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (files []string, leftOut int, err error) {
	a, err := c.object(ctx, c.get(NameListFiles, projectQuery(user, project), "application/json"))
	if err != nil {
		return nil, 0, err
	}
	r := &reader{a: a}
	r.decode("files", &files, "list of strings")
	if _, some := r.a["left_out"]; some { // a backend on Modal does not send it
		r.decode("left_out", &leftOut, "number")
	}
	if r.fault == "" && len(files) > maxFiles {
		r.fault = fmt.Sprintf("it lists more than %d files", maxFiles)
	}
	if err := c.finish(NameListFiles, r); err != nil {
		return nil, 0, err
	}
	return files, leftOut, nil
}

// GetFile copies one file of a project to w and returns its size in bytes. For a
// file of more than limit bytes it returns an Error with CodeTooLarge, after it
// has written limit bytes.
func (c *Client) GetFile(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, path string, w io.Writer, limit int64) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.Timeout, &errTimeout{"whole file", c.opts.Timeout})
	defer cancel()
	query := projectQuery(user, project)
	query.Set("path", path)
	resp, err := c.do(ctx, c.get(NameGetFile, query, "*/*"))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		// The beginning is enough for the error.
		head, _ := io.ReadAll(io.LimitReader(resp.Body, maxRead))
		return 0, c.statusError(NameGetFile, resp, head)
	}
	n, err := io.Copy(w, http.MaxBytesReader(nil, resp.Body, limit))
	if _, tooLong := errors.AsType[*http.MaxBytesError](err); tooLong {
		return n, &dreamcore.Error{
			Code:    dreamcore.CodeTooLarge,
			Message: fmt.Sprintf("%s: %s is larger than %s", NameGetFile, c.text(path), term.Size(limit)),
			Hint:    "omit the file, or copy it from the server's data volume",
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return n, c.transportError(ctx, NameGetFile, err)
	case err != nil:
		return n, fmt.Errorf("copy %s: %w", c.text(path), c.cause(err))
	}
	return n, nil
}

func (c *Client) get(name string, query url.Values, accept string) call {
	return call{name: name, method: http.MethodGet, query: query, secret: c.secret(), accept: accept}
}

func projectQuery(user dreamcore.UserID, project dreamcore.ProjectID) url.Values {
	return url.Values{"user_id": {string(user)}, "project_id": {string(project)}}
}
