// Package clienttest replaces the connection to a service for tests.
package clienttest

import (
	"context"
	"io"
	"net/http"
)

// Transport runs a handler over a pipe, so that tests can run in a synctest bubble,
// where a socket would stop the clock.
type Transport struct{ Handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (m Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, head: make(chan int, 1)}
	stop := context.AfterFunc(r.Context(), func() { pw.CloseWithError(context.Cause(r.Context())) })
	go func() {
		defer stop()
		m.Handler.ServeHTTP(w, r)
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
