package gate

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/api/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testSecret = "4f9d1c2b7a6e5d3c8b9a0f1e2d3c4b5a"

// server answers according to the contract, except for the paths for which lies
// has a handler.
type server struct {
	lies map[string]http.HandlerFunc
}

func (s server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if lie, ok := s.lies[r.URL.Path]; ok {
		lie(w, r)
		return
	}
	if r.URL.Path != "/health" && (r.Method != http.MethodPost || r.Header.Get(client.SecretHeader) != testSecret) {
		reply(401, `{"error":"Unauthorized"}`)(w, r)
		return
	}
	id := uuid.NewString()
	switch r.URL.Path {
	case "/health":
		reply(200, `{"status":"healthy","app":"dreamcore","version":"1.0.0"}`)(w, r)
	case "/test_sandbox_io":
		reply(200, `{"success":true,"input":"hello","output":"hello","match":true}`)(w, r)
	case "/test_gvisor":
		reply(200, `{"success":true,"proc_version":"Linux version 4.19.0-gvisor\n","is_gvisor":true}`)(w, r)
	case "/test_stream":
		streamOf(time.Second, 5, true)(w, r)
	case "/test_volume":
		reply(200, fmt.Sprintf(`{"success":true,"test_id":%q,"written":"w-%s","read":"w-%[2]s","match":true}`, id, id))(w, r)
	case "/test_auth":
		reply(200, `{"success":true,"message":"hello"}`)(w, r)
	}
}

func reply(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// hang never answers.
func hang(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func startStream(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
}

// streamOf sends n chunks with a pause before each but the first.
func streamOf(pause time.Duration, n int, done bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		startStream(w)
		for i := range n {
			if i > 0 && !wait(r, pause) {
				return // the client has disconnected
			}
			if _, err := fmt.Fprintf(w, "id: %d\ndata: {\"count\":%d,\"timestamp\":1}\n\n", i+1, i+1); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
		if done {
			io.WriteString(w, "data: {\"type\":\"done\"}\n\n")
		}
	}
}

// wait reports whether the client stays connected for d.
func wait(r *http.Request, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.Context().Done():
		return false
	}
}

// script sends text as a stream.
func script(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		startStream(w)
		io.WriteString(w, text)
	}
}

// overPipe returns a client of handler for a synctest bubble.
func overPipe(t *testing.T, secret string, handler http.Handler) *client.Client {
	t.Helper()
	return connect(t, "http://server", secret, clienttest.Transport{Handler: handler})
}

func connect(t *testing.T, address, secret string, transport http.RoundTripper) *client.Client {
	t.Helper()
	c, err := client.New(address, client.Options{Secret: secret, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// find returns the result of the gate called name.
func find(t *testing.T, r Report, name string) Result {
	t.Helper()
	for _, g := range r.Gates {
		if g.Name == name {
			return g
		}
	}
	t.Fatalf("no gate %s in %+v", name, r)
	return Result{}
}

func contains(t *testing.T, what, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("%s is %q, want %q in it", what, text, want)
	}
}
