package main

import (
	"context"
	"errors"
	"os/exec"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// serveGame serves the game in dir on loopback until the command is interrupted,
// with the restrictions of a preview: the agent's code is not trusted.
func serveGame(ctx context.Context, a *app, req dreamcore.Request, dir string) error {
	r, err := req.Validate()
	if err != nil {
		return err
	}
	service, listener, address, err := preview.OpenDirectory(dir, r.User, r.Project, a.logger("error"))
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- service.Serve(ctx, listener) }()
	p := a.io.Human()
	p.Success("Serving the game", address)
	if err := browse(ctx, a, address); err != nil {
		p.Hint("open " + address + " in a browser")
	}
	p.Info("Stop with Ctrl-C")
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
