package client

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testSecret = "4f9d1c2b7a6e5d3c8b9a0f1e2d3c4b5a"

// serve starts a server with handler and returns a client of it.
func serve(t *testing.T, handler http.HandlerFunc, change ...func(*Options)) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return connect(t, server.URL, change...)
}

func connect(t *testing.T, address string, change ...func(*Options)) *Client {
	t.Helper()
	e, err := ParseEndpoint(address)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Endpoint: e, Secret: testSecret}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// inMemory is a transport that runs a handler over a pipe, so that tests can
// run in a synctest bubble, where a socket would stop the clock.
type inMemory struct{ handler http.HandlerFunc }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, head: make(chan int, 1)}
	stop := context.AfterFunc(r.Context(), func() { pw.CloseWithError(context.Cause(r.Context())) })
	go func() {
		defer stop()
		m.handler(w, r)
		w.WriteHeader(http.StatusOK)
		// A handler that returns because its client disconnected does not complete the answer.
		pw.CloseWithError(context.Cause(r.Context()))
	}()
	select {
	case status := <-w.head:
		return &http.Response{StatusCode: status, Header: w.sent, Body: pr, Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

type pipeWriter struct {
	header http.Header
	sent   http.Header
	body   *io.PipeWriter
	head   chan int
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) Flush()              {}
func (w *pipeWriter) WriteHeader(status int) {
	if w.sent == nil {
		w.sent = w.header.Clone()
		w.head <- status
	}
}
func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// overPipe returns a client of handler for a synctest bubble.
func overPipe(t *testing.T, handler http.HandlerFunc) *Client {
	return connect(t, "http://server", func(o *Options) { o.HTTP = &http.Client{Transport: inMemory{handler}} })
}
