package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Ticks is the number of counting events of Stream, one second apart.
const Ticks = 5

// maxLine bounds one line of the counting program.
const maxLine = 1 << 10

// counting is the program of Stream. It sleeps in the sandbox, so that the pauses
// that a client sees are the program's own. busybox's date does not support %N and
// prints it literally.
const counting = `for n in 1 2 3 4 5; do
	[ "$n" = 1 ] || sleep 1
	now=$(date +%s.%N)
	case $now in *[!0-9.]*) now=$(date +%s) ;; esac
	printf '{"count":%d,"timestamp":%s}\n' "$n" "$now"
done`

// Stream runs a program that counts to five, a second apart, and passes each of its
// events {"count":n,"timestamp":seconds} to emit at once, then {"type":"done"}: six
// events if it returns without an error. emit is not called after Stream has
// returned, nor concurrently; its error ends the check. The caller must make emit
// return when ctx ends.
func (p *Prober) Stream(ctx context.Context, emit func(dreamcore.Event) error) error {
	return p.limited(ctx, "streaming", func(ctx context.Context) error {
		ticks := &tickWriter{emit: emit}
		err := p.within(ctx, nil, func(sb sandbox.Sandbox) error {
			const message = "the counting program failed in a sandbox"
			if err := p.run(ctx, sb, message, "", ticks, "/bin/sh", "-c", counting); err != nil {
				return err
			}
			if err := ticks.complete(); err != nil {
				return failed(message, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		// Sent last: only now has the sandbox ended without an error.
		return emit(dreamcore.Event(`{"type":"done"}`))
	})
}

// tickWriter splits the program's output into lines and emits an event for each.
type tickWriter struct {
	emit  func(dreamcore.Event) error
	line  []byte // unfinished
	count int    // events emitted
}

var errMalformed = errors.New("the program did not write its next count")

// Write implements io.Writer. It bounds the output by the length and the number of
// lines.
func (w *tickWriter) Write(b []byte) (int, error) {
	for done := 0; ; {
		rest := b[done:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			if len(w.line)+len(rest) > maxLine {
				return done, errTooMuch
			}
			w.line = append(w.line, rest...)
			return len(b), nil
		}
		if len(w.line)+end > maxLine {
			return done, errTooMuch
		}
		event, err := parseTick(append(w.line, rest[:end]...), w.count+1)
		if err != nil {
			return done, err
		}
		if err := w.emit(event); err != nil {
			return done, err
		}
		w.line = w.line[:0]
		w.count++
		done += end + 1
	}
}

// complete returns an error unless the program wrote all of its counts.
func (w *tickWriter) complete() error {
	if w.count != Ticks || len(w.line) != 0 {
		return fmt.Errorf("%w: it ended after %d of %d", errMalformed, w.count, Ticks)
	}
	return nil
}

// parseTick returns the event of a line whose count must be want. The event is built
// from two numbers: no other part of the line reaches a client.
func parseTick(line []byte, want int) (dreamcore.Event, error) {
	var t struct {
		Count     int         `json:"count"`
		Timestamp json.Number `json:"timestamp"`
	}
	if err := json.Unmarshal(line, &t); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if t.Count != want || want > Ticks || t.Timestamp == "" {
		return nil, fmt.Errorf("%w: %.100q", errMalformed, line)
	}
	return json.Marshal(t)
}
