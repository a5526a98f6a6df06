package gameview

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/preview"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Serve serves the game in dir on loopback until ctx ends, with the restrictions of a
// preview: the agent's code is not trusted. It opens the browser of the display.
func Serve(ctx context.Context, io *term.IO, display bool, r dreamcore.GenerateRequest, dir string, log *slog.Logger) error {
	service, listener, address, err := preview.OpenDirectory(dir, r.User, r.Project, log)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- service.Serve(ctx, listener) }()
	p := io.Human()
	p.Success("Serving the game", address)
	if err := Browse(ctx, display, address); err != nil {
		p.Hint("open " + address + " in a browser")
	}
	p.Info("Stop with Ctrl-C")
	return <-done
}

// Browse opens a page in the browser of the display.
func Browse(ctx context.Context, display bool, url string) error {
	if !display {
		return errors.New("there is no display")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, "xdg-open", url).Run()
}

// CheckOutput returns an error if dir exists and is not empty, which the copy
// would refuse after the game is made.
func CheckOutput(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(entries) == 0) {
		return nil
	}
	if err != nil {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the output directory cannot be used", Err: err, Hint: "name another directory with -o DIR"}
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the output directory " + dir + " is not empty", Hint: "name another one with -o DIR, or add --force to copy into it"}
}
