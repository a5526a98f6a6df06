package gameview

import (
	"os"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Picture selects a picture of a game, and the file for it; File is "" for none.
type Picture struct{ File, Screen string }

// Check returns an error if there is no such screen.
func (o Picture) Check() error {
	if !slices.Contains(history.Screens, o.Screen) {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--screen must be " + strings.Join(history.Screens, " or ")}
	}
	return nil
}

// Keep writes a picture that was asked for, or reports why it cannot: err, or that
// the game has no picture, if picture is nil. redact removes secrets from a text.
func (o Picture) Keep(io *term.IO, redact func(string) string, picture []byte, err error) {
	if o.File == "" {
		return
	}
	if err == nil && picture == nil || err != nil && dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		io.Stderr().Warning("there is no screenshot of this version", "it was not played in a browser")
		return
	}
	if err == nil {
		if err = os.WriteFile(o.File, picture, 0o644); err != nil {
			err = &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the screenshot cannot be written to " + o.File, Err: err, Hint: "name another file with --screenshot"}
		}
	}
	if err != nil {
		io.Stderr().Warning("there is no screenshot", redact(err.Error()))
		io.Stderr().Hint(dreamcore.HintOf(err))
		return
	}
	if !io.JSON {
		io.Stdout().Info("Screenshot written to " + o.File)
	}
}
