package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testBody = `{"messages":[{"role":"user","content":"hi"}], "model" : "m-1","max_tokens":9,"stream":true,"metadata":{"x":1.50}}`

const wholeStream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":11}}}\n\n" +
	"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\\nb 氷\"}}\n\n" +
	"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

// secrets replaces the sealed secrets.
type secrets map[string]map[string]string

func (s secrets) get(name string) (map[string]string, error) {
	if v, ok := s[name]; ok {
		return v, nil
	}
	return nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no secret " + name, Hint: "run: dreamcore secret list"}
}

var testSecrets = secrets{
	"key-a": {"KEY": "sk-test-aaaaaaaaaaaaaaaa"},
	"key-b": {"ONE": "1", "TWO": "sk-test-bbbbbbbbbbbbbbbb"},
}

// rig is a list with its log.
type rig struct {
	*List
	t      *testing.T
	hidden secret.Redactor

	mu  sync.Mutex
	log strings.Builder
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func newRig(t *testing.T, s secrets, entries ...Entry) *rig {
	t.Helper()
	if faults := Faults(entries); len(faults) > 0 {
		t.Fatalf("faults: %v", faults)
	}
	r := &rig{t: t}
	var err error
	r.List, err = New(entries, Options{Secret: s.get, Hide: func(v string) { r.hidden.Add(v) }, Unhide: func(v string) { r.hidden.Remove(v) }, Logger: testLogger(r)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.List.Close()
		if log := r.logged(); r.hidden.Redact(log) != log {
			t.Errorf("the log holds a secret:\n%s", log)
		}
	})
	return r
}

// said is an answer and its body.
type said struct {
	*gateway.Answer
	body string
	err  error
}

func (s said) String() string {
	if s.Answer == nil {
		return fmt.Sprint("error ", s.err)
	}
	return fmt.Sprint(s.Upstream, " ", s.StatusCode, " ", s.body, " ", s.err)
}

func (r *rig) send(call gateway.Call) said {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	a, err := r.Send(ctx, call)
	if err != nil {
		return said{err: err}
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return said{a, string(b), err}
}

// call returns a call like the gateway's.
func call(body string) gateway.Call {
	var v struct {
		Model  string
		Stream bool
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		panic(err)
	}
	return gateway.Call{
		Path: messagesPath, Query: "beta=true", Body: []byte(body), Model: v.Model, Stream: v.Stream,
		Header: http.Header{"Anthropic-Beta": {"one, interleaved-thinking-2025-05-14,", "context-1m-2025-08-07"}, "Anthropic-Version": {"2023-06-01"}, "User-Agent": {"cli"}, "Content-Type": {"application/json"}},
	}
}

// model answers like the Messages API and records the requests.
type model struct {
	mu     sync.Mutex
	bodies []string
	header http.Header
	paths  []string
	fails  func(n int) int // the status of the nth request; 0 for success
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	m.mu.Lock()
	m.bodies, m.paths, m.header = append(m.bodies, string(b)), append(m.paths, r.RequestURI), r.Header.Clone()
	n := len(m.bodies)
	m.mu.Unlock()
	if m.fails != nil {
		if status := m.fails(n); status != 0 {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"type":"error","error":{"type":"x_error","message":"status %d"}}`, status)
			return
		}
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/count_tokens"):
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"input_tokens":42}`)
	case strings.Contains(strings.ReplaceAll(string(b), " ", ""), `"stream":true`):
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		io.WriteString(w, wholeStream)
	default:
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"type":"message","content":[]}`)
	}
}

func (m *model) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bodies)
}

func (m *model) last() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bodies[len(m.bodies)-1]
}

func (m *model) serve(t *testing.T) string {
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	return s.URL
}

func plainEntry(name, url string) Entry {
	return Entry{Name: name, Kind: Anthropic, BaseURL: url, APIKey: "key-a"}
}

func testLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
