package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// maxDownload bounds one file of a game that a service sends.
const maxDownload = 256 << 20

// download copies a game from a service into dest, and nothing outside of it.
func download(ctx context.Context, a *app, c *client.Client, req dreamcore.Request, dest string, force bool) (int, error) {
	w, err := req.Validate()
	if err != nil {
		return 0, err
	}
	files, leftOut, err := c.ListFiles(ctx, w.User, w.Project)
	if err != nil {
		return 0, err
	}
	if leftOut > 0 {
		a.io.Stderr().Warning(fmt.Sprintf("%d files are left out: their names are not UTF-8", leftOut))
	}
	if !force {
		if err := checkOutput(dest); err != nil {
			return 0, err
		}
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	for _, name := range files {
		if err := downloadFile(ctx, c, w, root, name); err != nil {
			return 0, fmt.Errorf("%s: %w", term.Clean(name), err)
		}
	}
	return len(files), nil
}

func downloadFile(ctx context.Context, c *client.Client, req dreamcore.GenerateRequest, root *os.Root, name string) error {
	if !filepath.IsLocal(name) {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the service named a file outside of the project"}
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// A link of that name goes; its target stays.
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = c.GetFile(ctx, req.User, req.Project, name, f, maxDownload)
	return errors.Join(err, f.Close())
}

// serveGame shows the game in a directory on loopback until the command is
// interrupted, as the service would: what the agent wrote is no friend of the
// operator's browser either.
func serveGame(ctx context.Context, a *app, req dreamcore.Request, dir string) error {
	valid, err := req.Validate()
	if err != nil {
		return err
	}
	service, ln, address, err := playPreview(dir, valid, a.logger("error"))
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- service.Serve(ctx, ln) }()
	p := a.io.Human()
	p.Success("Serving the game", address)
	if err := browse(ctx, a, address); err != nil {
		p.Hint("open " + address + " in a browser")
	}
	p.Info("Ctrl-C ends it")
	return <-done
}

// browse opens the browser of the desktop.
func browse(ctx context.Context, a *app, url string) error {
	if !a.env.Display {
		return errors.New("there is no display")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "xdg-open", url).Run()
}
