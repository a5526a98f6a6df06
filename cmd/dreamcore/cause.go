package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// keptCauses is how many warnings and errors of a run are kept. They are the last
// ones, which are the closest to its end.
const keptCauses = 5

// causes keeps warnings and errors of the log to show the operator why a run
// failed. Messages for players never contain the cause.
type causes struct {
	mu   sync.Mutex
	kept []cause // guarded by mu
}

// cause is one record of the log, for people.
type cause struct {
	message string
	details []string
	hint    string
}

// over returns a handler that keeps records and forwards them to next, except
// the end of a job, which the view shows.
func (c *causes) over(next slog.Handler) slog.Handler { return causesHandler{c, next} }

type causesHandler struct {
	causes *causes
	next   slog.Handler
}

func (h causesHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn || h.next.Enabled(ctx, l)
}

func (h causesHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return causesHandler{h.causes, h.next.WithAttrs(attrs)}
}

func (h causesHandler) WithGroup(name string) slog.Handler {
	return causesHandler{h.causes, h.next.WithGroup(name)}
}

func (h causesHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		h.causes.keep(r)
	}
	if r.Message == "generation failed" && r.Level >= slog.LevelWarn || !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// shownAttrs are the attributes of a record that explain it.
var shownAttrs = []string{"error", "err", "reason", "status", "upstream", "setting", "type", "names"}

func (c *causes) keep(r slog.Record) {
	w := cause{message: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		text := fmt.Sprint(a.Value.Resolve().Any())
		switch {
		case text == "":
		case a.Key == "hint":
			w.hint = text
		case slices.Contains(shownAttrs, a.Key):
			w.details = append(w.details, text)
		}
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.kept, func(k cause) bool { return k.message == w.message && slices.Equal(k.details, w.details) }) {
		return
	}
	if c.kept = append(c.kept, w); len(c.kept) > keptCauses {
		c.kept = c.kept[1:]
	}
}

// maxCause bounds the message and the details of one cause, in characters.
const maxCause = 600

// show prints the causes and returns the last hint among them.
func (c *causes) show(p *term.Printer) (hint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.kept {
		p.Warning(term.Truncate(term.Clean(w.message), maxCause), term.Truncate(term.Clean(strings.Join(w.details, " · ")), maxCause))
		if w.hint != "" {
			hint = w.hint
		}
	}
	return hint
}

// nextCommand returns what an operator can do about a failure.
func nextCommand(o client.Outcome) string {
	switch o.Code {
	case dreamcore.FailAuth:
		return "set a valid key with: dreamcore setup --rotate anthropic-api-key"
	case dreamcore.FailNetwork, dreamcore.FailAPITimeout:
		return "check the connection to the model API (dreamcore doctor names it), then run the same command again"
	case dreamcore.FailRateLimit:
		return "wait a minute and run the same command again; see what was spent with: dreamcore usage"
	case dreamcore.FailDisk:
		return "free space on the disk of the state directory (df -h shows it; dreamcore image prune removes images), or use another one with --state DIR"
	case dreamcore.FailQuota:
		return "remove files of the user's projects, or raise project_mib, project_files or disk_mib"
	case dreamcore.FailSandbox:
		return "run: dreamcore gate sandbox-io isolation (to see whether sandboxes work), or dreamcore doctor"
	case dreamcore.FailNoGame:
		return "describe the game in the prompt, and run the command again"
	case dreamcore.FailCLITimeout:
		return "allow more time: run the same command with --timeout 10m"
	case dreamcore.FailCLIKilled:
		return "give the sandbox more memory with the setting memory_mib, then run the same command again"
	}
	if o.Recoverable {
		return "run the same command again"
	}
	return "for more details, run it again with --log-level debug, or see the log of the service"
}
