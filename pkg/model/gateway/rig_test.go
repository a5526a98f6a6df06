package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testKey  = "sk-ant-test-6f1d2c3b4a5968778695a4b3c2d1-TAILTAIL"
	testBody = `{"model":"m-1","stream":true,"max_tokens":9,"unknown":{"x":[1,2]},"messages":[]}`
	patience = 10 * time.Second
)

// logBuffer is a log that a test can read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rig is a gateway with one socket, one grant and a client in place of a sandbox.
type rig struct {
	t      *testing.T
	gw     *Gateway
	socket *Socket
	grant  *Grant
	client *http.Client
	log    *logBuffer
}

// newRig serves handler over a real TCP connection. At its end, every rig checks
// that the log does not contain the key.
func newRig(t *testing.T, handler http.HandlerFunc, change ...func(*Config)) *rig {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return newRigAt(t, server.URL, change...)
}

func newRigAt(t *testing.T, url string, change ...func(*Config)) *rig {
	t.Helper()
	api, err := NewAPIUpstream(APIConfig{BaseURL: url, Key: func() (string, error) { return testKey, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	r := &rig{t: t, log: &logBuffer{}}
	cfg := Config{Upstream: api, Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, c := range change {
		c(&cfg)
	}
	r.gw = New(cfg)
	r.socket = r.listen()
	r.grant = r.socket.Grant(GrantOptions{Job: "job-1"})
	r.client = newClient(t, r.socket.Path())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.gw.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		if strings.Contains(r.log.String(), testKey) || strings.Contains(r.log.String(), "TAILTAIL") {
			t.Errorf("the log holds the key:\n%s", r.log)
		}
		if strings.Contains(r.log.String(), "gateway panicked") {
			t.Errorf("the gateway panicked:\n%s", r.log)
		}
	})
	return r
}

func (r *rig) listen() *Socket {
	r.t.Helper()
	s, err := r.gw.Listen(r.t.TempDir())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func newClient(t *testing.T, path string) *http.Client {
	tr := &http.Transport{DialContext: unixDialer(path), DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func unixDialer(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) { return dialUnix(path) }
}

// dialUnix connects to a socket whose path may be too long for an address.
func dialUnix(path string) (net.Conn, error) {
	return socket.Dial(context.Background(), path)
}

// request returns a request like the CLI's; change may modify it.
func (r *rig) request(body string, change ...func(*http.Request)) *http.Request {
	r.t.Helper()
	req, err := http.NewRequest("POST", "http://model.invalid/v1/messages?beta=true", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", r.grant.Token())
	req.Header.Set("Content-Type", "application/json")
	for _, c := range change {
		c(req)
	}
	return req
}

// answer is a complete answer; err is the error of reading it.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func (r *rig) do(req *http.Request) answer {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(req.Context(), patience)
	defer cancel()
	resp, err := r.client.Do(req.WithContext(ctx))
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(b), err: err}
	if strings.Contains(fmt.Sprint(a), "TAILTAIL") {
		r.t.Errorf("the answer holds the key: %v", a)
	}
	return a
}

func (r *rig) post(body string) answer {
	r.t.Helper()
	return r.do(r.request(body))
}

// raw writes text to the socket unchanged and returns the complete response.
func (r *rig) raw(text string) string {
	r.t.Helper()
	c, err := dialUnix(r.socket.Path())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = io.WriteString(c, text) }()
	b, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		r.t.Fatalf("no end of the answer to %q: %q", truncate(text, 200), b)
	}
	return string(b)
}

// wantRefusal checks the status, the API's error form and the header that tells
// the CLI not to retry.
func wantRefusal(t *testing.T, a answer, status int, kind string) {
	t.Helper()
	if a.err != nil || a.status != status || a.header.Get("X-Should-Retry") != "false" {
		t.Fatalf("got %d, x-should-retry %q, err %v, body %q; want %d and no retry", a.status, a.header.Get("X-Should-Retry"), a.err, a.body, status)
	}
	if !strings.HasPrefix(a.body, `{"type":"error","error":{"type":"`+kind+`","message":"`) {
		t.Fatalf("body %s is no %s in the API's form", a.body, kind)
	}
}

// eventually polls a condition that has no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func within(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("no end of: %s", what)
	}
}

const (
	eventStart = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":11,\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\n"
	eventText  = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"hi \\\"type\\\":\\\"message_stop\\\"\"}}\n\n"
	eventDelta = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":42}}\n\n"
	eventStop  = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

	wholeStream = eventStart + eventText + eventDelta + eventStop
)

func beginStream(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.WriteHeader(200)
}

func send(w http.ResponseWriter, s string) {
	_, _ = io.WriteString(w, s)
	_ = http.NewResponseController(w).Flush()
}

func goodStream(w http.ResponseWriter, _ *http.Request) {
	beginStream(w)
	send(w, wholeStream)
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		key := req.Header.Get("X-Api-Key")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write((&apiError{status: code, message: "org 1234: key " + key + " or …" + key[len(key)/2:]}).body())
	}
}
