package route

import (
	"bufio"
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

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "the-internal-secret"

// fakeCell answers as its handler says, after a check of the secret, and notes what it
// was asked.
type fakeCell struct {
	name string
	*httptest.Server
	mu    sync.Mutex
	asked []*http.Request // guarded by mu; without test_auth
	said  []string        // guarded by mu; their bodies
}

func startCell(t testing.TB, name string, h http.HandlerFunc) *fakeCell {
	t.Helper()
	c := &fakeCell{name: name}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorized := r.Header.Get("X-Modal-Secret") == secret || r.Header.Get("Authorization") == "Bearer "+secret
		if r.URL.Path != "/test_auth" {
			body, _ := io.ReadAll(r.Body)
			c.mu.Lock()
			c.asked, c.said = append(c.asked, r), append(c.said, string(body))
			c.mu.Unlock()
		}
		switch {
		case r.URL.Path == "/health":
			fmt.Fprintf(w, `{"status":"healthy","app":%q}`, name)
		case !authorized:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"Unauthorized"}`)
		case r.URL.Path == "/test_auth":
			_, _ = io.WriteString(w, `{"success":true}`)
		case h != nil:
			h(w, r)
		default:
			_, _ = io.WriteString(w, name)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *fakeCell) requests() ([]*http.Request, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked, c.said
}

func (c *fakeCell) cell() Cell {
	return Cell{Name: c.name, Address: c.Listener.Addr().String(), Serving: true}
}

// mapOf returns a map in which a has the slots 0 to 799, and b the rest: bob is on a,
// alice on b.
func mapOf(t testing.TB, more string) *slots.Map {
	t.Helper()
	m, err := slots.Decode([]byte(`{"generation":1,"cells":["a","b"],"slots":{"a":"0-799","b":"800-1023"}` + more + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// harness is a router that serves.
type harness struct {
	t      testing.TB
	table  *Table
	router *Router
	url    string
	client *http.Client
	stop   func()
}

func startRouter(t testing.TB, change func(*Config), cells ...*fakeCell) *harness {
	t.Helper()
	h := &harness{t: t, table: NewTable(), client: &http.Client{Transport: &http.Transport{}}}
	cfg := Config{Table: h.table, Hold: 10 * time.Second, Held: 100, Language: "en", Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	h.router = New(cfg)
	if len(cells) > 0 {
		h.table.SetMap(mapOf(t, ""))
		var all []Cell
		for _, c := range cells {
			all = append(all, c.cell())
		}
		h.table.SetCells(all)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.url = "http://" + ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	front := server.Front{Handler: h.router, HeaderBytes: h.router.HeaderBytes(), Logger: cfg.Logger, Stop: func() time.Duration {
		h.router.Drain(4 * time.Second)
		return 4 * time.Second
	}}
	go func() { served <- front.Serve(ctx, ln) }()
	h.stop = sync.OnceFunc(func() {
		h.client.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		h.router.Close()
	})
	t.Cleanup(h.stop)
	return h
}

// do sends a request with the secret, and returns the answer with its body.
func (h *harness) do(method, path, body string, header ...string) (*http.Response, string) {
	h.t.Helper()
	resp := h.send(method, path, body, header...)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Errorf("%s %s: %v", method, path, err)
	}
	return resp, string(raw)
}

func (h *harness) send(method, path, body string, header ...string) *http.Response {
	h.t.Helper()
	req, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("X-Modal-Secret", secret)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header[http.CanonicalHeaderKey(header[i])] = nil
		if header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := h.client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp
}

// raw sends bytes on a connection of their own, and returns the first answer.
func (h *harness) raw(text string) (*http.Response, string) {
	h.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		h.t.Fatal(err)
	}
	lines := bufio.NewReader(c)
	resp, err := http.ReadResponse(lines, nil)
	if err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(lines, nil)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}
