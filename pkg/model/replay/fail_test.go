package replay_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
)

func TestFailingStatusHasItsHeadersAndCount(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"text":"at last","fail":{"status":429,"headers":{"retry-after":"1","x-should-retry":"false"},"times":2}}]]}`)
	for range 2 {
		resp := post(t, srv, body(user("prompt")))
		var v map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		wantError(t, resp, v, 429, "rate_limit_error")
		if resp.Header.Get("Retry-After") != "1" || resp.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("headers %v", resp.Header)
		}
	}
	if got := say(t, srv, user("prompt")); got != "at last" {
		t.Errorf("after two failures: %q", got)
	}
}

func TestCountersBelongToOneModelAndOneTurn(t *testing.T) {
	const script = `{"conversations":[[{"text":"a","fail":{"status":500,"times":1}}],[{"text":"b","fail":{"status":500,"times":1}}]]}`
	first, second := serve(t, script), serve(t, script)
	talks := [][]message{{user("a")}, {user("a"), assistant("b"), user("c")}}
	for _, srv := range []*httptest.Server{first, second} {
		for _, talk := range talks {
			if resp := post(t, srv, body(talk...)); resp.StatusCode != 500 {
				t.Errorf("got %d for the first request, want 500", resp.StatusCode)
			}
		}
		for _, talk := range talks {
			if resp := post(t, srv, body(talk...)); resp.StatusCode != 200 {
				t.Errorf("got %d for the second request, want 200", resp.StatusCode)
			}
		}
	}
}

func TestErrorTypesDependOnStatus(t *testing.T) {
	for status, kind := range map[string]string{
		"400": "invalid_request_error", "401": "authentication_error", "403": "permission_error", "404": "not_found_error",
		"413": "request_too_large", "418": "invalid_request_error", "500": "api_error", "502": "api_error", "529": "overloaded_error",
	} {
		srv := serve(t, `{"conversations":[[{"fail":{"status":`+status+`}}]]}`)
		resp := post(t, srv, body(user("prompt")))
		data, _ := io.ReadAll(resp.Body)
		if !strings.Contains(string(data), `"`+kind+`"`) {
			t.Errorf("%s: %s", status, data)
		}
	}
	srv := serve(t, `{"conversations":[[{"fail":{"status":400,"type":"billing_error","message":"no credit"}}]]}`)
	data, _ := io.ReadAll(post(t, srv, body(user("prompt"))).Body)
	if !strings.Contains(string(data), `{"type":"billing_error","message":"no credit"}`) {
		t.Errorf("own type and message: %s", data)
	}
}

func TestCutClosesConnectionInTheMiddle(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"text":"`+strings.Repeat("word ", 100)+`","fail":{"cut":true,"times":2}}]]}`)
	data, err := io.ReadAll(post(t, srv, body(user("prompt"))).Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v, want a broken connection", err)
	}
	if !bytes.Contains(data, []byte("text_delta")) || bytes.Contains(data, []byte("content_block_stop")) {
		t.Errorf("the stream is not cut within its block:\n%s", data)
	}

	whole := body(user("prompt"))
	whole["stream"] = false
	data, err = io.ReadAll(post(t, srv, whole).Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(data) == 0 || json.Valid(data) {
		t.Errorf("a complete answer: %v, %q", err, data)
	}
	if got := say(t, srv, user("prompt")); !strings.HasPrefix(got, "word word") {
		t.Errorf("after the cuts: %q", got)
	}
}

func TestShortAnswerIsCutToo(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"tools":[{"name":"A","input":{}}],"fail":{"cut":true}}]]}`)
	data, err := io.ReadAll(post(t, srv, body(user("prompt"))).Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Contains(data, []byte("input_json_delta")) {
		t.Errorf("%v\n%s", err, data)
	}
}

func TestGarbageIsNotAnEventStream(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"text":"a","fail":{"garbage":true}}]]}`)
	resp := post(t, srv, body(user("prompt")))
	if m, err := readStream(resp.Body); err == nil {
		t.Errorf("read as %+v", m)
	}
	whole := body(user("prompt"))
	whole["stream"] = false
	data, err := io.ReadAll(post(t, srv, whole).Body)
	if err != nil || len(data) == 0 || json.Valid(data) {
		t.Errorf("a complete answer: %v, %q", err, data)
	}
}

func TestStallLastsUntilClientDisconnects(t *testing.T) {
	s, err := replay.Parse([]byte(`{"conversations":[[{"text":"never","fail":{"stall":true}}]]}`))
	if err != nil {
		t.Fatal(err)
	}
	returned := make(chan struct{})
	model := replay.New(s)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(returned)
		model.ServeHTTP(w, r)
	}))
	defer srv.Close()
	data, _ := json.Marshal(body(user("prompt")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/v1/messages", bytes.NewReader(data))
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && lines.Text() != "event: content_block_start" {
	}
	if lines.Text() != "event: content_block_start" {
		t.Fatal("no block was opened")
	}
	select {
	case <-returned:
		t.Fatal("the model gave up by itself")
	default:
	}
	cancel()
	<-returned
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// recorder is a ResponseWriter that can be read concurrently.
type recorder struct {
	header http.Header
	body   lockedBuffer
	status atomic.Int64
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status.Store(int64(status)) }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) Flush()                      {}
func (r *recorder) text() string                { return r.body.String() }
func (r *recorder) code() int                   { return int(r.status.Load()) }

// inBubble serves one request from script with a fake clock.
func inBubble(t *testing.T, script string, stream bool, check func(ctx context.Context, cancel context.CancelFunc, done <-chan struct{}, w *recorder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := replay.Parse([]byte(script))
		if err != nil {
			t.Fatal(err)
		}
		request := body(user("prompt"))
		request["stream"] = stream
		data, _ := json.Marshal(request)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := &recorder{header: http.Header{}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			replay.New(s).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/messages", bytes.NewReader(data)))
		}()
		synctest.Wait()
		check(ctx, cancel, done, w)
		<-done
	})
}

func isDone(done <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func TestDelayPrecedesAnswerAndEndsWithClient(t *testing.T) {
	const script = `{"conversations":[[{"text":"a","delay_ms":2000}]]}`
	inBubble(t, script, true, func(_ context.Context, _ context.CancelFunc, done <-chan struct{}, w *recorder) {
		time.Sleep(1999 * time.Millisecond)
		if isDone(done) || w.text() != "" {
			t.Error("answered before the delay was over")
		}
		time.Sleep(time.Millisecond)
		if !isDone(done) || !strings.Contains(w.text(), "message_stop") {
			t.Error("no answer after the delay")
		}
	})
	inBubble(t, script, true, func(_ context.Context, cancel context.CancelFunc, done <-chan struct{}, w *recorder) {
		cancel()
		if !isDone(done) || w.text() != "" {
			t.Error("the delay outlives its client")
		}
	})
}

func TestDelayPrecedesFailure(t *testing.T) {
	inBubble(t, `{"conversations":[[{"delay_ms":1000,"fail":{"status":500}}]]}`, true, func(_ context.Context, _ context.CancelFunc, done <-chan struct{}, w *recorder) {
		if isDone(done) {
			t.Error("failed immediately")
		}
		time.Sleep(time.Second)
		if !isDone(done) || w.code() != 500 {
			t.Errorf("status %d after the delay", w.code())
		}
	})
}

func TestTimedStallContinues(t *testing.T) {
	const script = `{"conversations":[[{"text":"slow","fail":{"stall":true,"stall_ms":5000}}]]}`
	for _, stream := range []bool{true, false} {
		inBubble(t, script, stream, func(_ context.Context, _ context.CancelFunc, done <-chan struct{}, w *recorder) {
			time.Sleep(4999 * time.Millisecond)
			if isDone(done) || strings.Contains(w.text(), "slow") {
				t.Errorf("stream %v: answered too early", stream)
			}
			time.Sleep(time.Millisecond)
			if !isDone(done) || !strings.Contains(w.text(), "slow") {
				t.Errorf("stream %v: no answer after the stall", stream)
			}
		})
		inBubble(t, script, stream, func(_ context.Context, cancel context.CancelFunc, done <-chan struct{}, w *recorder) {
			cancel()
			if !isDone(done) || strings.Contains(w.text(), "slow") {
				t.Errorf("stream %v: the stall outlives its client", stream)
			}
		})
	}
}
