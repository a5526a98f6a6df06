package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// streamWith answers with text as an event stream.
func streamWith(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		io.WriteString(w, text)
	}
}

func collect(c *Client, ctx context.Context) (events []string, outcome Outcome, err error) {
	outcome, err = c.Generate(ctx, dreamcore.Request{}, func(e dreamcore.Event) error {
		events = append(events, string(e))
		return nil
	})
	return events, outcome, err
}

func TestGenerateForwardsEveryEventUpToTheLast(t *testing.T) {
	const done = `{"type":"done","exit_code":0}`
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"plain", "data: {\"a\":1}\n\ndata: " + done + "\n\n", []string{`{"a":1}`, done}},
		{"ids, comments and retries", ": keep-alive\n\nid: 1\nretry: 5\nevent: x\ndata: {\"a\":1}\n\n: keep-alive\n\nid: 2\ndata: " + done + "\n\n", []string{`{"a":1}`, done}},
		{"CRLF and no blank", "data:{\"a\":1}\r\n\r\ndata:" + done + "\r\n\r\n", []string{`{"a":1}`, done}},
		{"byte order mark, extra newlines", "\ufeffdata: {\"a\":1}\n\n\n\ndata: " + done + "\n\n", []string{`{"a":1}`, done}},
		{"data on two lines", "data: {\"a\":\ndata: 1}\n\ndata: " + done + "\n\n", []string{"{\"a\":\n1}", done}},
		{"nothing after the last", "data: " + done + "\n\ndata: junk\n\n", []string{done}},
		{"an 8 MB event", "data: {\"a\":\"" + strings.Repeat("x", 8<<20) + "\"}\n\ndata: " + done + "\n\n", []string{`{"a":"` + strings.Repeat("x", 8<<20) + `"}`, done}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events, outcome, err := collect(serve(t, streamWith(tt.text)), t.Context())
			if err != nil || !outcome.Done {
				t.Fatalf("outcome %+v, %v", outcome, err)
			}
			if diff := cmp.Diff(tt.want, events); diff != "" && len(diff) < 2000 {
				t.Errorf("events (-want +got):\n%s", diff)
			} else if diff != "" {
				t.Error("events differ")
			}
		})
	}
}

func TestAnErrorEventIsTheOutcome(t *testing.T) {
	for _, tt := range []struct {
		event string
		want  Outcome
	}{
		{`{"type":"error","exitCode":124,"code":"CLI_TIMEOUT","userMessage":"a\u001b[1mb\nc","recoverable":true}`,
			Outcome{Code: dreamcore.FailCLITimeout, UserMessage: "ab c", Recoverable: true, ExitCode: 124, HasExit: true}},
		{`{"type":"error","code":"SANDBOX_ERROR","userMessage":"日本","recoverable":false}`,
			Outcome{Code: dreamcore.FailSandbox, UserMessage: "日本"}},
		{`{"type":"error","code":5,"userMessage":[],"recoverable":"x","exitCode":"y"}`, Outcome{Code: dreamcore.FailUnknown}},
		{`{"type":"error"}`, Outcome{Code: dreamcore.FailUnknown}},
	} {
		_, outcome, err := collect(serve(t, streamWith("data: "+tt.event+"\n\n")), t.Context())
		check(t, outcome, err, tt.want)
	}
}

func TestBrokenStreamsAreErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "cut before its last event"},
		{"no terminal event", "data: {\"a\":1}\n\n", "cut before its last event"},
		{"cut inside an event", "data: {\"a\":1}\n\ndata: {\"type\":\"do", "cut before its last event"},
		{"no JSON", "data: hello " + testSecret + "\n\ndata: {\"type\":\"done\"}\n\n", "not a JSON object"},
		{"an array", "data: [1]\n\ndata: {\"type\":\"done\"}\n\n", "not a JSON object"},
		{"empty data", "data:\n\ndata: {\"type\":\"done\"}\n\n", "not a JSON object"},
		{"no stream at all", "<html>" + testSecret, "cut before its last event"},
		{"an endless event", "data: " + strings.Repeat("x", 1<<20), "longer than 1 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, streamWith(tt.text))
			c.maxEvent = 1 << 20
			_, outcome, err := collect(c, t.Context())
			if err == nil || outcome.Done || dreamcore.CodeOf(err) != dreamcore.CodeInternal || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %+v, %v; want %q", outcome, err, tt.want)
			}
			fitToPrint(t, err)
		})
	}
}

func TestALostConnectionIsAnInterruptedStream(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		streamWith("data: {\"a\":1}\n\ndata: {\"b")(w, r)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	events, _, err := collect(c, t.Context())
	if len(events) != 1 || err == nil || !strings.Contains(err.Error(), "cut before its last event") {
		t.Errorf("got %q, %v", events, err)
	}
}

func TestAnswersThatAreNotAStreamAreErrors(t *testing.T) {
	for _, tt := range []struct{ media, body, want string }{
		{"text/html", "<html>", `not an event stream; its type is "text/html"`},
		{"", `x`, "not an event stream"},
		{"application/json", `{"success":false,"error":"no \u001b[1msandbox"}`, "the error is: no sandbox"},
		{"text/event-stream-not", "data: {\"type\":\"done\"}\n\n", "not an event stream"},
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", tt.media)
			io.WriteString(w, tt.body)
		})
		err := c.TestStream(t.Context(), func(dreamcore.Event) error { return nil })
		if err == nil || dreamcore.CodeOf(err) != dreamcore.CodeInternal || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.media, err, tt.want)
		}
		fitToPrint(t, err)
	}
}

func TestStreamPassesEachEventOnAsItArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := overPipe(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for n := range 3 {
				time.Sleep(time.Second)
				fmt.Fprintf(w, "data: {\"count\":%d}\n\n", n+1)
			}
			io.WriteString(w, "data: {\"type\":\"done\"}\n\ndata: {\"late\":1}\n\n")
		})
		start := time.Now()
		var got []string
		err := c.TestStream(t.Context(), func(e dreamcore.Event) error {
			got = append(got, fmt.Sprintf("%s %v", e, time.Since(start)))
			return nil
		})
		want := []string{`{"count":1} 1s`, `{"count":2} 2s`, `{"count":3} 3s`, `{"type":"done"} 3s`, `{"late":1} 3s`}
		check(t, got, err, want)
	})
}

func TestASilentStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := overPipe(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for range 10 { // longer than the limits, but never silent
				io.WriteString(w, ": keep-alive\n\n")
				time.Sleep(DefaultSilence / 2)
			}
			<-r.Context().Done()
		})
		start := time.Now()
		_, _, err := collect(c, t.Context())
		if d, want := time.Since(start), 9*DefaultSilence/2+DefaultSilence; d != want {
			t.Errorf("ended after %v, want %v", d, want)
		}
		if dreamcore.CodeOf(err) != dreamcore.CodeUnreachable || !strings.Contains(fmt.Sprint(err), "no sign of life") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnErrorOfTheCallersFunctionEndsAStream(t *testing.T) {
	full := errors.New("disk full")
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		streamWith("data: {\"a\":1}\n\n")(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	_, err := c.Generate(t.Context(), dreamcore.Request{}, func(dreamcore.Event) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

// greedyReader records the size of the largest requested read.
type greedyReader struct {
	io.Reader
	most int
}

func (g *greedyReader) Read(b []byte) (int, error) {
	g.most = max(g.most, len(b))
	return g.Reader.Read(b)
}

// The parser scans its whole buffer for every event: if a large event made all
// later reads large, the small events after it would take minutes.
func TestReadsStaySmallAfterALargeEvent(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("data: {\"a\":\"" + strings.Repeat("x", 4<<20) + "\"}\n\n")
	for range 20_000 {
		b.WriteString("data: {\"n\":1}\n\n")
	}
	b.WriteString("data: {\"type\":\"done\"}\n\n")
	c := connect(t, "http://host")
	n := 0
	body := &greedyReader{Reader: &b}
	err := c.events(t.Context(), "x", &following{}, &pacedReader{r: body, heard: func() {}}, func(dreamcore.Event) error { n++; return nil })
	if err != nil || n != 20_002 {
		t.Errorf("%d events, %v", n, err)
	}
	if body.most > maxRead {
		t.Errorf("a read of %d bytes, want %d at most", body.most, maxRead)
	}
}

func FuzzEvents(f *testing.F) {
	for _, s := range []string{
		"data: {\"type\":\"done\"}\n\n", ": c\n\nid: 1\ndata: {\"a\":1}\r\n\r\n", "data: {\"type\":\"error\",\"code\":\"X\",\"exitCode\":1}\n\n",
		"data:\r\rdata: [", "\ufeffdata: {}\n\n\n", "data: {\"a\":\ndata: 1}\n\n", "data: {\"type\":[]}\n\n", "data", "\n\r\n\r",
	} {
		f.Add([]byte(s))
	}
	c, err := New("http://host", Options{Secret: testSecret})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ended := false
		err := c.events(t.Context(), "x", &following{}, &pacedReader{r: bytes.NewReader(b), heard: func() {}}, func(e dreamcore.Event) error {
			if !json.Valid(e) {
				t.Errorf("event %q is no JSON", e)
			}
			if terminal(e) {
				ended = true
				if o := c.outcome(e); !o.Done && o.Code == "" {
					t.Errorf("event %q has no code", e)
				}
			}
			return nil
		})
		if err == nil && !ended {
			t.Errorf("%q counts as a complete stream", b)
		}
		if err != nil {
			fitToPrint(t, err)
		}
	})
}
