package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// pieceBytes is how much of a large event is written at once. A client with a
// slow connection makes progress with every piece, and does not count as stalled.
const pieceBytes = 32 << 10

// backlog is how many events may wait between a source and a slow client. Each
// may have dreamcore.MaxEventBytes, so it is small; later events stay in the
// journal.
const backlog = 2

// message is an event for a client.
type message struct {
	id    uint64 // 0 sends no id
	event dreamcore.Event
}

// feed runs a source of events alongside the writer that serves the client, so
// that the writer can send comments while the source is idle. The caller of
// startFeed must call stop.
type feed struct {
	messages chan message // closed when the source has ended
	err      error        // the source's error, once messages is closed
	cancel   context.CancelFunc
}

// source passes events to send until it ends; send returns an error when ctx is
// done.
type source func(ctx context.Context, send func(message) error) error

func startFeed(ctx context.Context, from source) *feed {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{messages: make(chan message, backlog), cancel: cancel}
	go func() {
		defer close(f.messages)
		defer func() {
			if v := recover(); v != nil {
				f.err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		f.err = from(ctx, func(m message) error {
			select {
			case f.messages <- m:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	return f
}

// stop cancels the source and waits for it.
func (f *feed) stop() {
	f.cancel()
	for range f.messages {
	}
}

// beginStream sends the header of a stream.
func (x *exchange) beginStream() error {
	h := x.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	if h.Get("Connection") == "" { // it closes while the service drains
		h.Set("Connection", "keep-alive")
	}
	h.Set("X-Accel-Buffering", "no")
	x.WriteHeader(http.StatusOK)
	return x.FlushError()
}

// forward writes the messages of f until f ends, and a comment whenever there was
// no event for Limits.KeepAlive. An error means that the client is gone: it
// closed the connection, or accepted no data for Limits.WriteTimeout.
func (x *exchange) forward(ctx context.Context, f *feed) error {
	silence := time.NewTimer(x.limits.KeepAlive)
	defer silence.Stop()
	for {
		select {
		case m, ok := <-f.messages:
			if !ok && f.err != nil && ctx.Err() != nil {
				return context.Cause(ctx) // the cause of the source's end
			}
			if !ok {
				return x.FlushError()
			}
			if err := x.event(m); err != nil {
				return err
			}
			if len(f.messages) > 0 {
				continue // flushed with the next one
			}
		case <-silence.C:
			if _, err := x.Write([]byte(": keep-alive\n\n")); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := x.FlushError(); err != nil {
			return err
		}
		silence.Reset(x.limits.KeepAlive)
	}
}

// event writes one event without flushing.
func (x *exchange) event(m message) error {
	head := make([]byte, 0, 32)
	if m.id != 0 {
		head = append(strconv.AppendUint(append(head, "id: "...), m.id, 10), '\n')
	}
	if _, err := x.Write(append(head, "data: "...)); err != nil {
		return err
	}
	for rest := oneLine(m.event); len(rest) > 0; {
		n := min(len(rest), pieceBytes)
		if _, err := x.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	_, err := x.Write([]byte("\n\n"))
	return err
}

// oneLine ensures that an event cannot forge fields of the stream. JSON contains
// line breaks only between tokens, where spaces are equivalent.
func oneLine(e dreamcore.Event) []byte {
	if bytes.IndexByte(e, '\n') < 0 && bytes.IndexByte(e, '\r') < 0 {
		return e
	}
	return bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, e)
}

// endWithError ends a stream that has begun with an error event.
func (x *exchange) endWithError(e dreamcore.Event) {
	if x.event(message{event: e}) == nil {
		_ = x.FlushError() // an error means that the client is gone
	}
}
