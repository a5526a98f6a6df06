package term

import (
	"errors"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxErrorLines bounds how much of an error is shown, because causes may quote logs.
const maxErrorLines = 24

// RenderError writes err to ErrOut: what failed, the cause in muted lines, and
// a hint. With JSON it writes one object {"error","code","hint"} that includes
// the cause in "error". It writes nothing if err is nil.
func (t *IO) RenderError(err error) {
	if err == nil {
		return
	}
	if t.JSON {
		t.errorJSON(err)
		return
	}
	p := t.Stderr()
	message, cause := split(err)
	for i, line := range firstLines(message) {
		if i == 0 {
			p.Println(p.Style(Bad, Failed.Symbol()), " ", p.Style(Strong, line))
			continue
		}
		p.Println("  ", p.Style(Normal, line))
	}
	if cause != "" {
		for _, line := range firstLines(cause) {
			p.Println("  ", p.Style(Muted, line))
		}
	}
	p.Hint(dreamcore.HintOf(err))
}

func (t *IO) errorJSON(err error) {
	line, encodeErr := encodeJSON(struct {
		Error string         `json:"error"`
		Code  dreamcore.Code `json:"code"`
		Hint  string         `json:"hint,omitempty"`
	}{strings.Join(firstLines(err.Error()), "\n"), dreamcore.CodeOf(err), Clean(t.complete(dreamcore.HintOf(err)))})
	if encodeErr != nil {
		return // three strings cannot fail to encode
	}
	_ = t.screen.write(t.ErrOut, append(line, '\n'))
}

// split separates the cause from the text of err if its chain contains a
// dreamcore.Error; the actions that wrap it stay in the message.
func split(err error) (message, cause string) {
	text := err.Error()
	e, ok := errors.AsType[*dreamcore.Error](err)
	if !ok || e.Err == nil {
		return text, ""
	}
	cause = e.Err.Error()
	message, ok = strings.CutSuffix(text, ": "+cause)
	if !ok {
		return text, ""
	}
	return message, cause
}

func firstLines(s string) []string {
	lines := cleanLines(s)
	if len(lines) > maxErrorLines {
		lines = append(lines[:maxErrorLines:maxErrorLines], "…")
	}
	return lines
}
