package upstream

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// maxFrame bounds one frame of a stream; that of a piece of text has some
// hundred bytes. The SDK's decoder has no bound.
const maxFrame = 4 << 20

// preludeBytes are a frame's two lengths and their checksum; minFrame adds the
// checksum at its end.
const (
	preludeBytes = 12
	minFrame     = preludeBytes + 4
)

var (
	errFrame = errors.New("a frame of the stream is not understood")

	eventType = regexp.MustCompile(`^[a-z_]+$`)
)

// events reads Bedrock's frames and is read as the API's stream of events, each
// as soon as its frame is whole.
type events struct {
	source  io.ReadCloser
	decoder *eventstream.Decoder
	frame   bytes.Buffer // the frame that is read
	payload []byte       // of the last frame, used again
	out     []byte       // what is not yet read of the last event
	err     error        // how it ended
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

// next returns the event of the next frame. Both results may be set: an
// exception is the last thing that a stream says.
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
			return nil, nil // of a kind that came later than this program
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

// readFrame reads a whole frame, or returns io.EOF where the stream ends
// between two.
func (e *events) readFrame() error {
	e.frame.Reset()
	var length [4]byte
	if _, err := io.ReadFull(e.source, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n < minFrame || n > maxFrame {
		return fmt.Errorf("%w: it has %d bytes", errFrame, n)
	}
	e.frame.Write(length[:])
	// What is not there is not allocated, whatever the length says.
	if _, err := io.CopyN(&e.frame, e.source, int64(n)-int64(len(length))); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// chunkEvent makes an event of a chunk: one JSON object of the API's stream,
// in base64.
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
	if json.Unmarshal(v.Bytes, &kind) != nil || !eventType.MatchString(kind.Type) {
		return nil, errFrame
	}
	out := bytes.NewBuffer(make([]byte, 0, len(v.Bytes)+len(kind.Type)+32))
	fmt.Fprintf(out, "event: %s\ndata: ", kind.Type)
	// A line break between two members would end the line of the event.
	if err := json.Compact(out, v.Bytes); err != nil {
		return nil, errFrame
	}
	out.WriteString("\n\n")
	return out.Bytes(), nil
}

// errorEvent is an exception in a stream. What it says goes on only where it is
// about the request: elsewhere it may name the operator's account.
func errorEvent(exception, message string) []byte {
	status := exceptionStatus(exception, http.StatusInternalServerError)
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
