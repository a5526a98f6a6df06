// Package lend gives the terminal of this process to a program in a sandbox.
package lend

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Check returns an error if a program in a sandbox cannot have this terminal.
func Check(io *term.IO) error {
	stream, hint := "", ""
	switch {
	case !io.InTerminal:
		stream, hint = "input", "use -i without -t for input from a file or a pipe"
	case !io.OutTerminal:
		stream, hint = "output", "leave out -t if a program reads the output"
	default:
		return nil
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "-t needs a terminal; standard " + stream + " is not a terminal", Hint: hint}
}

// Terminal gives the terminal to a program in a sandbox until it ends, and returns its
// exit code. The terminal is as before on return, and already
// when ctx ends, because writing to a terminal may block.
func Terminal(ctx context.Context, io *term.IO, service *control.Client, sandbox string, program []string) (code int, err error) {
	restore, err := io.Raw()
	if err != nil {
		return 0, err
	}
	defer restore()
	defer context.AfterFunc(ctx, restore)()
	screen := term.NewScreen(io.Out)
	defer func() {
		if cerr := screen.Close(); err == nil {
			err = cerr
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sizes := windows(ctx, io)
	return service.ExecTerminal(ctx, sandbox, program, control.Terminal{
		Keys: io.Input(ctx), Screen: screen, Size: window(io), Resized: sizes,
	})
}

func window(io *term.IO) sandbox.Window {
	columns, rows := io.WindowSize()
	return sandbox.Window{Columns: uint16(columns), Rows: uint16(rows)} // the kernel's own type
}

// windows sends the size of the terminal after each change until ctx ends.
func windows(ctx context.Context, io *term.IO) <-chan sandbox.Window {
	changes, sizes := make(chan os.Signal, 1), make(chan sandbox.Window)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changes)
		for {
			select {
			case <-changes:
			case <-ctx.Done():
				return
			}
			select {
			case sizes <- window(io):
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}
