package upstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/notef-neighbor/dreamcore/pkg/model/upstream/upstreamtest"
)

func readEvents(r io.Reader) (string, error) {
	b, err := io.ReadAll(newEvents(io.NopCloser(r)))
	return string(b), err
}

func TestFramesAreConvertedToEvents(t *testing.T) {
	stop := upstreamtest.Chunk([]byte(`{"type":"message_stop"}`))
	pretty := upstreamtest.Chunk([]byte("{\n\"type\": \"ping\"\n}"))
	other := upstreamtest.Frame([]byte(`{}`), ":message-type", "event", ":event-type", "later")
	exception := func(name, message string) []byte {
		return upstreamtest.Frame([]byte(`{"message":"`+message+`"}`), ":message-type", "exception", ":exception-type", name)
	}
	fault := upstreamtest.Frame(nil, ":message-type", "error", ":error-code", "x", ":error-message", "account 12")
	const stopEvent = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"
	event := func(kind, message string) string {
		return `event: error` + "\n" + `data: {"type":"error","error":{"type":"` + kind + `","message":"` + message + `"}}` + "\n\n"
	}
	const failed = "The model failed in the middle of its answer."
	for name, tc := range map[string]struct {
		in   []byte
		want string
		err  error
	}{
		"nothing":       {nil, "", nil},
		"two":           {bytes.Repeat(stop, 2), stopEvent + stopEvent, nil},
		"line breaks":   {pretty, "event: ping\ndata: {\"type\":\"ping\"}\n\n", nil},
		"a later kind":  {append(bytes.Clone(other), stop...), stopEvent, nil},
		"throttled":     {append(bytes.Clone(stop), exception("throttlingException", "account 12")...), stopEvent + event("rate_limit_error", failed), nil},
		"overloaded":    {exception("serviceUnavailableException", "x"), event("overloaded_error", failed), nil},
		"timed out":     {exception("modelTimeoutException", "x"), event("timeout_error", failed), nil},
		"invalid":       {exception("validationException", "too long"), event("invalid_request_error", "too long"), nil},
		"last words":    {append(exception("modelStreamErrorException", "x"), stop...), event("api_error", failed), nil},
		"error":         {fault, event("api_error", failed), nil},
		"cut":           {stop[:len(stop)-1], "", io.ErrUnexpectedEOF},
		"cut in length": {append(bytes.Clone(stop), 0, 0), stopEvent, io.ErrUnexpectedEOF},
		"changed":       {append(bytes.Replace(stop, []byte("abcdefghij"), []byte("abcdefghiX"), 1), stop...), "", errFrame},
		"too long":      {binary.BigEndian.AppendUint32(nil, 1<<31), "", errFrame},
		"too short":     {binary.BigEndian.AppendUint32(nil, 3), "", errFrame},
		"no type":       {upstreamtest.Chunk([]byte(`{"type":"x\ny"}`)), "", errFrame},
		"no JSON":       {upstreamtest.Chunk([]byte("x\n\ndata: y")), "", errFrame},
		"no base64":     {upstreamtest.Frame([]byte(`{"bytes":"!"}`), ":message-type", "event", ":event-type", "chunk"), "", errFrame},
		"no kind":       {upstreamtest.Frame(nil), "", errFrame},
	} {
		for how, r := range map[string]io.Reader{"": bytes.NewReader(tc.in), " byte by byte": iotest.OneByteReader(bytes.NewReader(tc.in))} {
			if got, err := readEvents(r); got != tc.want || !errors.Is(err, tc.err) || tc.err == nil && err != nil {
				t.Errorf("%s%s: %q, %v", name, how, got, err)
			}
		}
	}
}

func TestEventIsAvailableWithItsFrame(t *testing.T) {
	from, to := io.Pipe()
	e := newEvents(from)
	defer e.Close()
	for range 3 {
		go func() { _, _ = to.Write(upstreamtest.Chunk([]byte(`{"type":"ping"}`))) }()
		buf := make([]byte, 1024)
		n, err := e.Read(buf)
		if err != nil || string(buf[:n]) != "event: ping\ndata: {\"type\":\"ping\"}\n\n" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
}

func FuzzFrames(f *testing.F) {
	stop := upstreamtest.Chunk([]byte(`{"type":"message_stop"}`))
	f.Add(stop)
	f.Add(stop[:9])
	f.Add(upstreamtest.Frame([]byte(`{"message":"a\nb"}`), ":message-type", "exception", ":exception-type", "throttlingException"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, _ := readEvents(bytes.NewReader(in))
		// For any input, each event consists of two lines and an empty one.
		for event := range strings.SplitSeq(strings.TrimSuffix(got, "\n\n"), "\n\n") {
			if got != "" && (strings.Count(event, "\n") != 1 || !strings.HasPrefix(event, "event: ") || !strings.Contains(event, "\ndata: {")) {
				t.Errorf("event %q", event)
			}
		}
	})
}
