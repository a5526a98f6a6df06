package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// maxDownload bounds one file of a download, in bytes.
const maxDownload = 256 << 20

// Download copies the files of a project into the directory dest, which it
// creates if necessary, and never outside of it. It returns the number of copied
// files and of files that the service omitted.
func (c *Client) Download(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, dest string) (copied, leftOut int, err error) {
	files, leftOut, err := c.ListFiles(ctx, user, project)
	if err != nil {
		return 0, 0, err
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return 0, leftOut, err
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return 0, leftOut, err
	}
	defer root.Close()
	for _, name := range files {
		if err := c.downloadFile(ctx, user, project, root, name); err != nil {
			return copied, leftOut, fmt.Errorf("%s: %w", term.Clean(name), err)
		}
		copied++
	}
	return copied, leftOut, nil
}

func (c *Client) downloadFile(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, root *os.Root, name string) error {
	if !filepath.IsLocal(name) {
		return c.malformed(NameListFiles, "it names a file outside of the project")
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// Replace an existing link instead of writing to its target.
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = c.GetFile(ctx, user, project, name, f, maxDownload)
	return errors.Join(err, f.Close())
}
