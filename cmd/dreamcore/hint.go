package main

import (
	"cmp"
	_ "embed"
	"errors"
	"strings"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

//go:embed hints.txt
var hintTexts string

// hints returns what to do about an error, by its reason or the code of a failure. An
// empty text says that the hint of the error suffices.
var hints = sync.OnceValue(func() map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(hintTexts) {
		if key, hint, ok := strings.Cut(line, ":"); ok && line[0] != '#' {
			all[key] = strings.TrimSpace(hint)
		}
	}
	return all
})

// hintOf returns what to do about err: the hint of the error itself, followed
// by the command or flag for its reason.
func hintOf(err error) string {
	hint, command := dreamcore.HintOf(err), hints()[string(dreamcore.ReasonOf(err))]
	if hint == "" || command == "" {
		return hint + command
	}
	return hint + "; " + command
}

// redacted is an error without secrets in its text, and with the hint of hintOf.
type redacted struct {
	err error
	r   *secret.Redactor
}

func (e redacted) Error() string { return e.r.Redact(e.err.Error()) }
func (e redacted) Unwrap() error { return e.err }

// As makes the first Error of the chain one with the hint of the command line.
func (e redacted) As(target any) bool {
	to, ok := target.(**dreamcore.Error)
	if !ok {
		return false
	}
	first, ok := errors.AsType[*dreamcore.Error](e.err)
	if !ok {
		return false
	}
	copied := *first
	copied.Hint = hintOf(e.err)
	*to = &copied
	return true
}

// maxCause bounds the message and the details of one cause, in characters, on a terminal.
const maxCause = 600

// showCauses prints the causes of a failure and returns the last hint among
// them.
func showCauses(p *term.Printer, causes []daemon.Cause) (hint string) {
	for _, c := range causes {
		p.Warning(p.Fit(c.Message, maxCause), p.Fit(strings.Join(c.Details, " · "), maxCause))
		if c.Hint != "" {
			hint = c.Hint
		}
	}
	return hint
}

// nextCommand returns what an operator can do about a failure.
func nextCommand(o client.Outcome) string {
	again := "for more details, run it again with --log-level debug, or see the log of the service"
	if o.Recoverable {
		again = "run the same command again"
	}
	return cmp.Or(hints()[string(o.Code)], again)
}
