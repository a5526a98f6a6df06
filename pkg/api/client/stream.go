package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/r3labs/sse/v2"
)

const (
	// maxEvent bounds one event of a stream, in bytes; a server's own limit is
	// dreamcore.MaxEventBytes.
	maxEvent = 32 << 20
	// maxRead bounds one read of a stream, in bytes. The parser scans its whole
	// buffer for every event, so large reads make a stream of small events slow.
	maxRead = 32 << 10
)

// Types of the events that end a stream.
const (
	typeDone  = "done"
	typeError = "error"
)

// stream sends a request and passes every event to fn until the answer ends. A
// stream without a terminal event is an error, and so is an answer that is not a
// stream. f records the job and the received events.
func (c *Client) stream(ctx context.Context, f *following, r call, fn func(dreamcore.Event) error) error {
	name := r.name
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.opts.Timeout, func() { cancel(&errTimeout{"answer", c.opts.Timeout}) })
	defer watch.Stop()

	r.accept = "text/event-stream"
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := c.streamHead(name, resp); err != nil {
		return err
	}
	watch.Stop()
	if err := f.begin(resp.Header); err != nil {
		return err
	}
	silence := time.AfterFunc(c.opts.Silence, func() { cancel(&errTimeout{"sign of life", c.opts.Silence}) })
	defer silence.Stop()
	return c.events(ctx, name, f, &pacedReader{r: resp.Body, heard: func() { silence.Reset(c.opts.Silence) }}, fn)
}

// streamHead returns an error for an answer that is not a stream.
func (c *Client) streamHead(name string, resp *http.Response) error {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if resp.StatusCode == http.StatusOK && err == nil && media == "text/event-stream" {
		return nil
	}
	// The beginning is enough for the error; a read error only shortens it.
	head, _ := io.ReadAll(io.LimitReader(resp.Body, maxRead))
	if resp.StatusCode != http.StatusOK {
		return c.statusError(name, resp, head)
	}
	if a, err := c.parse(name, head); err == nil {
		if said := (&reader{a: a}).optional("error"); said != "" {
			return c.malformed(name, "not an event stream; the error is: "+c.text(said))
		}
	}
	return c.malformed(name, fmt.Sprintf("not an event stream; its type is %q", c.text(resp.Header.Get("Content-Type"))))
}

// pacedReader returns at most maxRead bytes at a time, calls heard after each
// read, and records whether the answer has ended.
type pacedReader struct {
	r     io.Reader
	heard func()
	over  bool
}

func (p *pacedReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b[:min(len(b), maxRead)])
	if n > 0 {
		p.heard()
	}
	p.over = err != nil
	return n, err
}

func (c *Client) events(ctx context.Context, name string, f *following, body *pacedReader, fn func(dreamcore.Event) error) error {
	parser := sse.NewEventStreamReader(body, c.maxEvent)
	ended := false
	for {
		block, err := parser.ReadEvent()
		if err != nil {
			return c.streamEnd(ctx, f, name, err, ended)
		}
		data, ok := eventData(block)
		if !ok {
			continue
		}
		if !isObject(data) {
			if body.over && !json.Valid(data) {
				// The parser delivers a truncated event as if it were complete.
				if _, err := parser.ReadEvent(); err != nil {
					return c.streamEnd(ctx, f, name, err, ended)
				}
			}
			return c.malformed(name, fmt.Sprintf("an event is not a JSON object; it begins with %q", c.text(string(data[:min(len(data), 80)]))))
		}
		ended = ended || terminal(data)
		f.received(block)
		if err := fn(data); err != nil {
			return err
		}
	}
}

// streamEnd returns the error for the end of a stream. After the terminal event
// a broken connection is no error.
func (c *Client) streamEnd(ctx context.Context, f *following, name string, err error, ended bool) error {
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		return c.malformed(name, fmt.Sprintf("an event is longer than %d MiB", c.maxEvent>>20))
	case ctx.Err() != nil:
		return c.transportError(ctx, name, err)
	case ended:
		return nil
	}
	f.broken = true
	return &dreamcore.Error{
		Code:    dreamcore.CodeInternal,
		Message: name + ": the stream was cut before its last event",
		Hint:    "check the server's log and the timeouts of a proxy in front of it, then try again",
		Err:     c.cause(err),
	}
}

// eventData returns a copy of the data of one block of a stream: the block is a
// slice of the parser's buffer. ok is false for a block without data, such as a
// keep-alive comment.
func eventData(block []byte) (data []byte, ok bool) {
	block = bytes.TrimPrefix(block, []byte("\ufeff"))
	for line := range bytes.FieldsFuncSeq(block, func(r rune) bool { return r == '\n' || r == '\r' }) {
		value, found := bytes.CutPrefix(line, []byte("data:"))
		if !found {
			continue
		}
		if ok {
			data = append(data, '\n')
		}
		data = append(data, bytes.TrimPrefix(value, []byte(" "))...)
		ok = true
	}
	return data, ok
}

// space has the white space of JSON, which is less than that of Unicode.
const space = " \t\r\n"

func isObject(data []byte) bool {
	trimmed := bytes.TrimLeft(data, space)
	return len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(data)
}

func terminal(e dreamcore.Event) bool {
	t := dreamcore.EventType(e)
	return t == typeDone || t == typeError
}

// outcome parses a terminal event. Members of a wrong type are ignored: the
// generation has failed in any case.
func (c *Client) outcome(e dreamcore.Event) Outcome {
	if dreamcore.EventType(e) == typeDone {
		return Outcome{Done: true}
	}
	var a answer
	if json.Unmarshal(e, &a) != nil {
		a = nil
	}
	o := Outcome{Code: dreamcore.FailUnknown}
	code, message := "", ""
	_ = json.Unmarshal(a["code"], &code)
	_ = json.Unmarshal(a["userMessage"], &message)
	_ = json.Unmarshal(a["recoverable"], &o.Recoverable)
	if raw, ok := a["exitCode"]; ok {
		o.HasExit = json.Unmarshal(raw, &o.ExitCode) == nil
	}
	if code != "" {
		o.Code = dreamcore.FailureCode(c.text(code))
	}
	o.UserMessage = c.text(message)
	return o
}

// marshal encodes a request without escaping the HTML characters of a prompt.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return b.Bytes(), nil
}

// Terminal parses the last event of a generation. ok is false for any other event.
func Terminal(e dreamcore.Event) (o Outcome, ok bool) {
	if !terminal(e) {
		return Outcome{}, false
	}
	return new(Client).outcome(e), true
}
