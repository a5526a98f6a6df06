// Package upstreamtest provides servers that simulate the clouds. They reject
// what the real ones would reject: Vertex requires a token that its token service
// issued for a signed assertion, Bedrock verifies each signature according to the
// public specification. They forward requests to any Messages API.
package upstreamtest

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Cloud is a running server.
type Cloud struct {
	URL    string // its address, https
	CAFile string // the certificate that a client must trust

	t *testing.T

	mu   sync.Mutex
	seen Seen // guarded by mu
}

// Seen is what a server has seen so far.
type Seen struct {
	Answered    int      // requests that reached the model
	Refused     []string // why the others were refused, in order
	Protocol    string   // of the last request, such as HTTP/2.0
	Connections int
}

// Seen returns what the server has seen so far.
func (c *Cloud) Seen() (seen Seen) {
	c.note(func(s *Seen) {
		seen = *s
		seen.Refused = slices.Clone(s.Refused)
	})
	return seen
}

func (c *Cloud) note(change func(*Seen)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.seen)
}

func (c *Cloud) refuse(why string) { c.note(func(s *Seen) { s.Refused = append(s.Refused, why) }) }

// serve starts a server that is closed at the end of the test.
func serve(t *testing.T, handler http.Handler) *Cloud {
	t.Helper()
	c := &Cloud{t: t}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.note(func(s *Seen) { s.Protocol = r.Proto })
		handler.ServeHTTP(w, r)
	}))
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			c.note(func(s *Seen) { s.Connections++ })
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	c.URL = server.URL
	c.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(c.CAFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask forwards the request to the model, with the body converted to the Messages
// API.
func (c *Cloud) ask(model http.Handler, w http.ResponseWriter, r *http.Request, path string, body map[string]json.RawMessage) {
	c.note(func(s *Seen) { s.Answered++ })
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Error(err)
	}
	to := r.Clone(r.Context())
	to.URL.Path, to.URL.RawPath, to.URL.RawQuery, to.RequestURI = path, "", "", path
	to.Header = http.Header{"Content-Type": {"application/json"}}
	to.Body, to.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	model.ServeHTTP(w, to)
}

// object parses a body that must be a JSON object.
func object(r *http.Request) (raw []byte, members map[string]json.RawMessage, err error) {
	if raw, err = io.ReadAll(r.Body); err == nil {
		err = json.Unmarshal(raw, &members)
	}
	return raw, members, err
}

func text(raw json.RawMessage) string { return strings.Trim(string(raw), `"`) }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// Proxy is a forward proxy for CONNECT. It connects every client to one address,
// whichever was requested.
type Proxy struct {
	URL string

	mu    sync.Mutex
	asked []string // guarded by mu: requested addresses
}

// Asked returns the requested addresses.
func (p *Proxy) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// NewProxy starts a proxy to the server at address.
func NewProxy(t *testing.T, address string) *Proxy {
	t.Helper()
	p := &Proxy{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.RequestURI)
		p.mu.Unlock()
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		to, err := net.Dial("tcp", strings.TrimPrefix(address, "https://"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer to.Close()
		// The server may already have read bytes of the tunnel: buffered has them.
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		done := make(chan struct{})
		go func() { defer close(done); defer from.Close(); _, _ = io.Copy(from, to) }()
		_, _ = io.Copy(to, buffered)
		to.Close()
		<-done
	}))
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p
}
