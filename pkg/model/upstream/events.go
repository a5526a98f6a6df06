package upstream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// maxFrame bounds one frame of a stream; a frame with a piece of text has some
// hundred bytes. The SDK's decoder has no bound.
const maxFrame = 4 << 20

// preludeBytes is the size of a frame's two lengths and their checksum; minFrame
// adds the checksum at its end.
const (
	preludeBytes = 12
	minFrame     = preludeBytes + 4
)

var (
	errFrame = errors.New("a frame of the stream is invalid")

	eventType = pattern.New(`^[a-z_]+$`)
)

// events converts Bedrock's frames to the API's stream of events. Each event can
// be read as soon as its frame is complete.
type events struct {
	source  io.ReadCloser
	decoder *eventstream.Decoder
	frame   bytes.Buffer // the current frame
	payload []byte       // buffer of the last frame's payload, reused
	out     []byte       // unread part of the last event
	err     error        // returned after out
}

func newEvents(source io.ReadCloser) *events {
	return &events{source: source, decoder: eventstream.NewDecoder()}
}

func (e *events) Close() error { return e.source.Close() }

func (e *events) Read(p []byte) (int, error) {
	for len(e.out) == 0 {
		if e.err != nil {
			return 0, e.err
		}
		e.out, e.err = e.next()
	}
	n := copy(p, e.out)
	e.out = e.out[n:]
	return n, nil
}

// next returns the event of the next frame. Both results may be set: an exception
// ends the stream.
func (e *events) next() ([]byte, error) {
	if err := e.readFrame(); err != nil {
		return nil, err
	}
	m, err := e.decoder.Decode(&e.frame, e.payload[:0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	e.payload = m.Payload
	switch headerText(m, ":message-type") {
	case "event":
		if headerText(m, ":event-type") != "chunk" {
			return nil, nil // an unknown, newer kind
		}
		return chunkEvent(m.Payload)
	case "exception":
		var v struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(m.Payload, &v)
		return errorEvent(headerText(m, ":exception-type"), v.Message), io.EOF
	case "error":
		return errorEvent(headerText(m, ":error-code"), headerText(m, ":error-message")), io.EOF
	}
	return nil, errFrame
}

// readFrame reads a complete frame, or returns io.EOF if the stream ends between
// two frames.
func (e *events) readFrame() error {
	e.frame.Reset()
	var length [4]byte
	if _, err := io.ReadFull(e.source, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n < minFrame || n > maxFrame {
		return fmt.Errorf("%w: its length is %d bytes", errFrame, n)
	}
	e.frame.Write(length[:])
	// Memory is allocated only for bytes that arrive, not for the declared length.
	if _, err := io.CopyN(&e.frame, e.source, int64(n)-int64(len(length))); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// chunkEvent returns the event in a chunk, which is one JSON object of the API's
// stream, in base64.
func chunkEvent(payload []byte) ([]byte, error) {
	var v struct {
		Bytes []byte `json:"bytes"`
	}
	if json.Unmarshal(payload, &v) != nil {
		return nil, errFrame
	}
	var kind struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(v.Bytes, &kind) != nil || !eventType().MatchString(kind.Type) {
		return nil, errFrame
	}
	out := bytes.NewBuffer(make([]byte, 0, len(v.Bytes)+len(kind.Type)+32))
	fmt.Fprintf(out, "event: %s\ndata: ", kind.Type)
	// Removes line breaks between members: they would end the line of the event.
	if err := json.Compact(out, v.Bytes); err != nil {
		return nil, errFrame
	}
	out.WriteString("\n\n")
	return out.Bytes(), nil
}

// errorEvent returns the event for an exception in a stream. The exception's text
// is forwarded only if it is about the request: otherwise it may name the
// operator's account.
func errorEvent(exception, message string) []byte {
	status := gateway.KindStatus(exception, http.StatusInternalServerError)
	if status != http.StatusBadRequest {
		message = "The model failed in the middle of its answer."
	}
	return gateway.ErrorEvent(status, message)
}

func headerText(m eventstream.Message, name string) string {
	if v, ok := m.Headers.Get(name).(eventstream.StringValue); ok {
		return string(v)
	}
	return ""
}
