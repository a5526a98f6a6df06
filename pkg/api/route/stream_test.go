package route

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

var errCut = errors.New("cut")

// partsOf returns a reader of data in parts of up to n bytes, which ends with err.
func partsOf(data []byte, n int, err error) io.Reader {
	return &parts{data, max(n, 1), err}
}

type parts struct {
	rest []byte
	n    int
	err  error
}

func (p *parts) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, p.err
	}
	n := copy(b[:min(len(b), p.n)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

const lastEvent = "data: {\"type\":\"error\"}\n\n"

func testStream(r io.Reader) *stream {
	return &stream{
		body: io.NopCloser(r), cancel: func(error) {}, lost: func(error) []byte { return []byte(lastEvent) },
		silence: time.NewTimer(time.Hour), unlink: func() bool { return true }, done: func() {},
	}
}

func TestACutStreamEndsWithAnError(t *testing.T) {
	whole := "id: 1\ndata: {\"a\":1}\n\n: keep-alive\n\nid: 2\ndata: {}\n\n"
	for partial, want := range map[string]string{
		"":                       whole + lastEvent,
		"id: 3\ndata: {\"half\"": whole + lastEvent,
		"id: 3\ndata: {}\n":      whole + lastEvent,
	} {
		for _, n := range []int{1, 2, 3, 7, 4096} {
			got, err := io.ReadAll(iotest.OneByteReader(testStream(partsOf([]byte(whole+partial), n, errCut))))
			if err != nil || string(got) != want {
				t.Errorf("%q in parts of %d: %q, %v", partial, n, got, err)
			}
		}
	}
}

func TestAStreamThatEndsItselfIsNotChanged(t *testing.T) {
	for _, text := range []string{"", "data: 1\n\n", "data: 1\n\ndata: half", "\n", ": the link has expired\n\n"} {
		if got, err := io.ReadAll(testStream(partsOf([]byte(text), 3, io.EOF))); err != nil || string(got) != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestAnEventThatWasPassedOnInPartIsCut(t *testing.T) {
	large := "data: " + strings.Repeat("x", 2*maxPartial)
	got, err := io.ReadAll(testStream(partsOf([]byte(large), 4096, errCut)))
	if !errors.Is(err, errCut) || !strings.HasPrefix(large, string(got)) || len(got) < maxPartial {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	// After its end, events are whole again.
	for n := 4090; n < 4100; n++ {
		text := large + "\n\ndata: 1\n\n"
		got, err := io.ReadAll(testStream(partsOf([]byte(text+"data: ha"), n, errCut)))
		if err != nil || string(got) != text+lastEvent {
			t.Errorf("in parts of %d: %d bytes, %v, ends with %q", n, len(got), err, got[max(0, len(got)-60):])
		}
	}
}

func FuzzStream(f *testing.F) {
	f.Add([]byte("id: 1\ndata: {}\n\ndata: x"), 3, true)
	f.Add([]byte("\n\n"), 1, false)
	f.Fuzz(func(t *testing.T, data []byte, n int, cut bool) {
		if bytes.Contains(data, []byte("\n\n\n")) {
			return // what counts as the end depends on the parts; an empty line means nothing
		}
		end, want := io.EOF, data
		if cut {
			whole := 0
			if i := bytes.LastIndex(data, endOfEvent); i >= 0 {
				whole = i + len(endOfEvent)
			}
			end, want = errCut, append(bytes.Clone(data[:whole]), lastEvent...)
		}
		got, err := io.ReadAll(testStream(partsOf(data, n, end)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q in parts of %d: %q, %v, want %q", data, n, got, err, want)
		}
	})
}

func events(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, text)
	_ = http.NewResponseController(w).Flush()
}

func TestAStreamIsPassedOnAtOnceAndEndsWithItsCell(t *testing.T) {
	goOn := make(chan struct{})
	b := startCell(t, "b", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Job-Id", "j")
		events(w, "id: 1\ndata: {}\n\nid: 2\ndata: {\"ha")
		<-goOn
		panic(http.ErrAbortHandler) // cuts the connection
	})
	h := startRouter(t, nil, startCell(t, "a", nil), b)
	for lang, want := range map[string]string{"en": "The connection to your game was lost", "ja": "ゲームとの接続が切れました"} {
		resp := h.send("POST", "/generate_game", `{"user_id":"`+alice+`"}`, "Accept-Language", lang)
		first := make([]byte, len("id: 1\ndata: {}\n\n"))
		if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "id: 1\ndata: {}\n\n" || resp.Header.Get("X-Job-Id") != "j" {
			t.Errorf("%q, %v, %v", first, err, resp.Header)
		}
		goOn <- struct{}{}
		rest, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.HasPrefix(string(rest), `data: {"type":"error","code":"CELL_LOST","userMessage":"`+want) || !strings.HasSuffix(string(rest), "\"recoverable\":true}\n\n") {
			t.Errorf("%q, %v", rest, err)
		}
	}
}

func TestAClientThatLeavesEndsTheRequestToTheCell(t *testing.T) {
	left := make(chan struct{})
	b := startCell(t, "b", func(w http.ResponseWriter, r *http.Request) {
		events(w, "data: {}\n\n")
		<-r.Context().Done()
		close(left)
	})
	h := startRouter(t, nil, startCell(t, "a", nil), b)
	resp := h.send("POST", "/generate_game", `{"user_id":"`+alice+`"}`)
	if _, err := resp.Body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-left
}

func TestStreamsEndWithTheRouter(t *testing.T) {
	b := startCell(t, "b", func(w http.ResponseWriter, r *http.Request) {
		events(w, "data: {}\n\n")
		<-r.Context().Done()
	})
	h := startRouter(t, nil, startCell(t, "a", nil), b)
	resp := h.send("POST", "/generate_game", `{"user_id":"`+alice+`"}`)
	defer resp.Body.Close()
	go h.stop()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(raw), "CELL_LOST") {
		t.Errorf("%q, %v", raw, err)
	}
	h.stop()
}

func TestASilentStreamIsCut(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := testStream(readerFunc(func([]byte) (int, error) {
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}))
	s.silence = time.AfterFunc(time.Hour, func() { cancel(errSilent) })
	s.silence.Reset(0) // as after streamSilence
	if got, err := io.ReadAll(s); err != nil || string(got) != lastEvent {
		t.Errorf("%q, %v", got, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
