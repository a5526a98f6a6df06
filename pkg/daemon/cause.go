package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// keptCauses is how many warnings and errors of a run are kept. They are the last
// ones, which are the closest to its end.
const keptCauses = 5

// Causes keeps warnings and errors of the log to show the operator why a run
// failed. Messages for players never contain the cause.
type Causes struct {
	mu   sync.Mutex
	kept []Cause // guarded by mu
}

// Cause is one record of the log, for people.
type Cause struct {
	Message string
	Details []string
	Hint    string
}

// Handler returns a handler that keeps records and forwards them to next, except
// the end of a job, which the view shows.
func (c *Causes) Handler(next slog.Handler) slog.Handler { return causesHandler{c, next} }

type causesHandler struct {
	causes *Causes
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

func (c *Causes) keep(r slog.Record) {
	w := Cause{Message: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		text := fmt.Sprint(a.Value.Resolve().Any())
		_, forPrograms := a.Value.Any().(dreamcore.Reason)
		switch {
		case text == "", forPrograms:
		case a.Key == "hint":
			w.Hint = text
		case slices.Contains(shownAttrs, a.Key):
			w.Details = append(w.Details, text)
		}
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.kept, func(k Cause) bool { return k.Message == w.Message && slices.Equal(k.Details, w.Details) }) {
		return
	}
	if c.kept = append(c.kept, w); len(c.kept) > keptCauses {
		c.kept = c.kept[1:]
	}
}

// List returns the causes, the oldest first.
func (c *Causes) List() []Cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.kept)
}
