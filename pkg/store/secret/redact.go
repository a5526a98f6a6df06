package secret

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Redacted replaces a secret.
const Redacted = "[redacted]"

// Shorter values, and shorter lines of values, are not searched for: they would be
// found everywhere.
const (
	minRedactedValue = 4
	minRedactedLine  = 16
	minEncodedValue  = 12 // in base64
)

// Redactor replaces secret values in text by Redacted. It finds a value as it is,
// as it is encoded in a JSON string or a URL, in hexadecimal digits or base64, and
// the long lines of a multi-line value. The zero value is ready for use and safe
// for concurrent use; it must not be copied.
type Redactor struct {
	mu      sync.Mutex
	values  map[string]int        // guarded by mu; how often each was added
	follow  func(values []string) // guarded by mu; optional
	current atomic.Pointer[search]
}

type search struct {
	forms    []string
	replacer *strings.Replacer
}

// Add makes the Redactor search for values, until each has been removed as often as
// it was added.
func (r *Redactor) Add(values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.values == nil {
		r.values = map[string]int{}
	}
	for _, v := range values {
		r.values[v]++
	}
	r.rebuild()
}

// Remove undoes one Add of each value, such as a token that is no longer valid.
func (r *Redactor) Remove(values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range values {
		if r.values[v] > 1 {
			r.values[v]--
		} else {
			delete(r.values, v)
		}
	}
	r.rebuild()
}

// Follow calls f with all values, now and after each change, before Add or Remove
// returns. There can be one follower; nil removes it. f must not use the Redactor.
func (r *Redactor) Follow(f func(values []string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.follow = f
	if f != nil {
		f(slices.Collect(maps.Keys(r.values)))
	}
}

// rebuild updates the search after a change of values. It must be called with mu
// held.
func (r *Redactor) rebuild() {
	if r.follow != nil {
		r.follow(slices.Collect(maps.Keys(r.values)))
	}
	s := &search{}
	for v := range r.values {
		s.forms = append(s.forms, forms(v)...)
	}
	// Longest first: the replacer takes the first one that matches, and must not
	// leave the end of a longer secret.
	slices.SortFunc(s.forms, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	s.forms = slices.Compact(s.forms)
	var pairs []string
	for _, f := range s.forms {
		pairs = append(pairs, f, Redacted)
	}
	s.replacer = strings.NewReplacer(pairs...)
	r.current.Store(s)
}

// forms returns the encodings of a value that occur in logs and messages.
func forms(v string) []string {
	if len(v) < minRedactedValue {
		return nil
	}
	list := []string{v, hex.EncodeToString([]byte(v)), url.QueryEscape(v), url.PathEscape(v), jsonInner(v, true), jsonInner(v, false)}
	// Without padding, so that it is found with or without it, and in front of more
	// data.
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		whole := len(v) / 3 * 3 // the data that follows changes the letters after this
		if len(v) >= minEncodedValue {
			list = append(list, enc.EncodeToString([]byte(v)), enc.EncodeToString([]byte(v[:whole])))
		}
	}
	if strings.Contains(v, "\n") {
		for line := range strings.Lines(v) {
			if line = strings.TrimSpace(line); len(line) >= minRedactedLine {
				list = append(list, line)
			}
		}
	}
	return list
}

// jsonInner returns v as it is encoded between the quotes of a JSON string.
func jsonInner(v string, escapeHTML bool) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(escapeHTML)
	if enc.Encode(v) != nil || b.Len() < len("\"\"\n") {
		return v
	}
	return b.String()[1 : b.Len()-len("\"\n")]
}

// Redact returns s with the secret values replaced.
func (r *Redactor) Redact(s string) string {
	c := r.current.Load()
	if c == nil {
		return s
	}
	return c.replacer.Replace(s)
}

// RedactBytes is Redact for bytes. It returns b itself if there is no secret in it.
func (r *Redactor) RedactBytes(b []byte) []byte {
	c := r.current.Load()
	if c == nil || !slices.ContainsFunc(c.forms, func(f string) bool { return bytes.Contains(b, []byte(f)) }) {
		return b
	}
	return []byte(c.replacer.Replace(string(b)))
}

// Handler returns a slog handler that redacts messages, keys and attributes of any
// type and passes them to next.
func (r *Redactor) Handler(next slog.Handler) slog.Handler {
	return &redactingHandler{redactor: r, next: next}
}

type redactingHandler struct {
	redactor *Redactor
	next     slog.Handler
}

func (h *redactingHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *redactingHandler) Handle(ctx context.Context, rec slog.Record) error {
	clean := slog.NewRecord(rec.Time, rec.Level, h.redactor.Redact(rec.Message), rec.PC)
	rec.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.attr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

func (h *redactingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &redactingHandler{redactor: h.redactor, next: h.next.WithAttrs(h.attrs(attrs))}
}

func (h *redactingHandler) WithGroup(name string) slog.Handler {
	return &redactingHandler{redactor: h.redactor, next: h.next.WithGroup(h.redactor.Redact(name))}
}

func (h *redactingHandler) attrs(attrs []slog.Attr) []slog.Attr {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = h.attr(a)
	}
	return clean
}

func (h *redactingHandler) attr(a slog.Attr) slog.Attr {
	return slog.Attr{Key: h.redactor.Redact(a.Key), Value: h.value(a.Value.Resolve())}
}

func (h *redactingHandler) value(v slog.Value) slog.Value {
	switch v.Kind() {
	case slog.KindString:
		return slog.StringValue(h.redactor.Redact(v.String()))
	case slog.KindGroup:
		return slog.GroupValue(h.attrs(v.Group())...)
	case slog.KindAny:
		return h.any(v)
	}
	return v // numbers, booleans and times
}

// any returns a value of another type unchanged if none of its printed forms
// contains a secret, and its redacted text otherwise.
func (h *redactingHandler) any(v slog.Value) slog.Value {
	x := v.Any()
	if b, ok := x.([]byte); ok {
		return slog.StringValue(h.redactor.Redact(string(b)))
	}
	text := fmt.Sprintf("%+v", x)
	clean := h.redactor.Redact(text)
	if clean != text {
		return slog.StringValue(clean)
	}
	if _, isError := x.(error); isError {
		return v // handlers print its text, which is clean
	}
	if b, err := json.Marshal(x); err == nil && !bytes.Equal(h.redactor.RedactBytes(b), b) {
		return slog.StringValue(string(h.redactor.RedactBytes(b)))
	}
	return v
}
