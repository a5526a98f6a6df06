package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// hostStream is a successful answer with the text "edit" in two pieces.
const hostStream = `event: message_start
data: {"type":"message_start","message":{"usage":{"input_tokens":11,"output_tokens":1}}}

data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}

data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"ed"}}

data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"it"}}

data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}

data: {"type":"message_stop"}

`

const hostMessage = `{"type":"message","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"ed"},{"type":"text","text":"it"}],"stop_reason":"end_turn","usage":{"input_tokens":11,"output_tokens":5}}`

// fakeMeter records the usage.
type fakeMeter struct {
	mu      sync.Mutex
	refuse  error
	spent   dreamcore.Spent
	reports int
}

func (m *fakeMeter) Reserve(string, int64, int64) (func(dreamcore.Spent, bool) dreamcore.Nano, error) {
	if m.refuse != nil {
		return nil, m.refuse
	}
	return func(s dreamcore.Spent, last bool) dreamcore.Nano {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.spent = s
		if last {
			m.reports++
		}
		return 1000
	}, nil
}

func hostGateway(t *testing.T, h http.HandlerFunc) (*Gateway, *audit.Log, string) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	api, err := NewAPIUpstream(APIConfig{BaseURL: server.URL, Key: func() (string, error) { return testKey, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	dir := t.TempDir()
	log, err := audit.Open(dir, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return New(Config{Upstream: api, Audit: log}), log, dir
}

func answerWith(media, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		_, _ = io.WriteString(w, body)
	}
}

func hostCall() HostCall {
	return HostCall{
		Name: "detect_intent", User: "u-1", Project: "p-1", Model: "m-1", MaxTokens: 9, System: "sort it", Prompt: "faster",
		TimeLimit: patience, MaxText: 1 << 10,
	}
}

func TestAskReturnsTextOfEveryFormOfAnswer(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"stream": answerWith("text/event-stream", hostStream), "stream with CRLF": answerWith("text/event-stream", strings.ReplaceAll(hostStream, "\n", "\r\n")),
		"message": answerWith("application/json", hostMessage),
	} {
		t.Run(name, func(t *testing.T) {
			gw, log, dir := hostGateway(t, h)
			m := &fakeMeter{}
			call := hostCall()
			call.Meter = m
			got, err := gw.Ask(t.Context(), call)
			if err != nil || got != (HostAnswer{"edit", "end_turn"}) {
				t.Fatalf("%+v, %v", got, err)
			}
			if want := (dreamcore.Tokens{Input: 11, Output: 5}); m.reports != 1 || m.spent.Tokens != want || m.spent.Upstream != "anthropic" {
				t.Errorf("%d final reports, %+v", m.reports, m.spent)
			}
			log.Close()
			var entries []audit.Entry
			if err := audit.Read(t.Context(), dir, audit.Filter{}, false, func(e audit.Entry, _ []byte) error {
				entries = append(entries, e)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if len(entries) != 1 || entries[0].User != "u-1" || entries[0].Project != "p-1" || entries[0].Job != "prompt:detect_intent" ||
				entries[0].Model != "m-1" || entries[0].Verdict != audit.Allowed || entries[0].Tokens.Output != 5 || entries[0].Cost != 1000 {
				t.Errorf("audit log: %+v", entries)
			}
		})
	}
}

func TestAskSendsTheKeyAndNotTheEndpointName(t *testing.T) {
	var got *http.Request
	var body string
	gw, _, _ := hostGateway(t, func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		got, body = r, string(raw)
		answerWith("text/event-stream", hostStream)(w, r)
	})
	if _, err := gw.Ask(t.Context(), hostCall()); err != nil {
		t.Fatal(err)
	}
	want := `{"max_tokens":9,"messages":[{"content":"faster","role":"user"}],"model":"m-1","stream":true,"system":"sort it"}`
	if body != want || got.URL.Path != "/v1/messages" || got.Header.Get("X-Api-Key") != testKey || got.Header.Get("Anthropic-Version") == "" {
		t.Errorf("%s %v\n%s", got.URL, got.Header, body)
	}
	if name := got.Header.Get(dreamcore.PromptHeader); name != "" {
		t.Errorf("the endpoint's name %q left the machine", name)
	}
}

func TestInProcessModelSeesEndpointName(t *testing.T) {
	var name string
	gw := New(Config{Upstream: HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name = r.Header.Get(dreamcore.PromptHeader)
		answerWith("text/event-stream", hostStream)(w, r)
	}))})
	if _, err := gw.Ask(t.Context(), hostCall()); err != nil || name != "detect_intent" {
		t.Errorf("%q, %v", name, err)
	}
}

func TestAskReportsWhyThereIsNoAnswer(t *testing.T) {
	half, _, _ := strings.Cut(hostStream, `data: {"type":"message_delta"`)
	silent := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server notices a disconnect only after reading the body
		<-r.Context().Done()
	}
	tests := []struct {
		name string
		h    http.HandlerFunc
		edit func(*HostCall)
		code dreamcore.FailureCode
	}{
		{"overloaded", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(529) }, nil, dreamcore.FailRateLimit},
		{"refused key", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, nil, dreamcore.FailAuth},
		{"unknown model", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, nil, dreamcore.FailAuth},
		{"a login page", answerWith("text/html", "<html>"), nil, dreamcore.FailNetwork},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, half)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, nil, dreamcore.FailNetwork},
		{"an error event", answerWith("text/event-stream", half+`data: {"type":"error","error":{"type":"overloaded_error"}}`+"\n\n"), nil, dreamcore.FailRateLimit},
		{"a line without an end", answerWith("text/event-stream", strings.Repeat(": filler", 1<<17)), nil, dreamcore.FailUnknown},
		{"silent", silent, func(c *HostCall) { c.TimeLimit = 50 * time.Millisecond }, dreamcore.FailAPITimeout},
		{"over the limit", answerWith("text/event-stream", hostStream), func(c *HostCall) {
			c.Meter = &fakeMeter{refuse: &dreamcore.OverBudget{Limit: "user_requests", After: time.Second}}
		}, dreamcore.FailRateLimit},
		{"too long", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, apiErr("invalid_request_error", "prompt is too long: 250000 tokens > 200000 maximum"))
		}, nil, dreamcore.FailUnknown},
		{"no ledger", answerWith("text/event-stream", hostStream), func(c *HostCall) {
			c.Meter = &fakeMeter{refuse: errors.New("disk")}
		}, dreamcore.FailUnknown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			gw, _, _ := hostGateway(t, tt.h)
			call := hostCall()
			if tt.edit != nil {
				tt.edit(&call)
			}
			got, err := gw.Ask(t.Context(), call)
			host, ok := errors.AsType[*HostError](err)
			if !ok || host.Code != tt.code || got.Text != "" {
				t.Fatalf("%+v, %v", got, err)
			}
			if over := tt.name == "over the limit"; over != (host.Over != nil) {
				t.Errorf("Over is %v", host.Over)
			}
		})
	}
}

// dribbler sends small events at short intervals, without end.
func dribbler(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(w, ": wait\n\n"); err != nil {
			return
		}
		_ = rc.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func TestEndlessSlowAnswerEndsAtTimeLimit(t *testing.T) {
	gw, _, _ := hostGateway(t, dribbler)
	call := hostCall()
	call.TimeLimit = 20 * time.Millisecond
	m := &fakeMeter{}
	call.Meter = m
	began := time.Now()
	_, err := gw.Ask(t.Context(), call)
	host, ok := errors.AsType[*HostError](err)
	if !ok || host.Code != dreamcore.FailAPITimeout {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 10*time.Second || m.reports != 1 {
		t.Errorf("after %v, %d final reports", took, m.reports)
	}
}

func TestAskEndsWithCallersContext(t *testing.T) {
	asked := make(chan struct{})
	gw, _, _ := hostGateway(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(asked)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	go func() {
		<-asked
		cancel(gone)
	}()
	m := &fakeMeter{}
	call := hostCall()
	call.Meter = m
	if _, err := gw.Ask(ctx, call); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	if m.reports != 1 {
		t.Errorf("%d final reports", m.reports)
	}
}

func TestTooLongAnswerIsCancelled(t *testing.T) {
	event := `data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"0123456789abcdef"}}` + "\n\n"
	gw, _, _ := hostGateway(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil { // never ends by itself
			if _, err := io.WriteString(w, event); err != nil {
				return
			}
		}
	})
	m := &fakeMeter{}
	call := hostCall()
	call.Meter = m
	got, err := gw.Ask(t.Context(), call)
	if err != nil || len(got.Text) <= call.MaxText || len(got.Text) > call.MaxText+16 {
		t.Errorf("%d bytes, %v", len(got.Text), err)
	}
	if m.reports != 1 || m.spent.Tokens.Output == 0 {
		t.Errorf("%d final reports, %+v", m.reports, m.spent)
	}
}

func FuzzHostText(f *testing.F) {
	f.Add([]byte(hostStream), 10)
	f.Add([]byte(hostMessage), 3)
	f.Add([]byte(`data: {"type":"message_delta","delta":"x"}`+"\n"+`data: {"type":5}`), 100)
	f.Add([]byte(`{"content":{"type":"text"}}`), 0)
	f.Fuzz(func(t *testing.T, raw []byte, cut int) {
		const limit = 16
		for _, media := range []string{"text/event-stream", "application/json"} {
			whole, pieces := newHostWriter(limit), newHostWriter(limit)
			whole.header.Set("Content-Type", media)
			pieces.header.Set("Content-Type", media)
			_, err := whole.Write(raw)
			cut := min(max(cut, 0), len(raw))
			if _, err := pieces.Write(raw[:cut]); err == nil {
				_, _ = pieces.Write(raw[cut:])
			}
			stop, other := whole.finish(), pieces.finish()
			if whole.text.String() != pieces.text.String() || stop != other && !whole.full || (err != nil) != whole.full || whole.full != pieces.full {
				t.Errorf("in pieces: %q, whole: %q", pieces.text.String(), whole.text.String())
			}
			if whole.text.Len() > 3*len(raw) { // a character of three bytes may replace one invalid byte
				t.Errorf("%d bytes", whole.text.Len())
			}
		}
	})
}
