package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// HandlerUpstream returns an Upstream in which h, an in-process model such as
// the replay model, answers the calls. The handler sees the path, query, headers
// and body of the Call, and dreamcore.PromptHeader for calls of a prompt
// endpoint; it must return when its request's context ends. A panic with
// http.ErrAbortHandler interrupts the answer; any other panic makes the call
// fail without affecting the process.
func HandlerUpstream(h http.Handler) Upstream { return handlerUpstream{h} }

type handlerUpstream struct{ handler http.Handler }

func (u handlerUpstream) Send(ctx context.Context, call Call) (*Answer, error) {
	req, err := newRequest(ctx, "http://model.invalid", call)
	if err != nil {
		return nil, err
	}
	req.RequestURI = req.URL.RequestURI()
	if name := promptOf(ctx); name != "" {
		req.Header.Set(dreamcore.PromptHeader, name)
	}

	ctx, cancel := context.WithCancel(ctx)
	reader, pipe := io.Pipe()
	w := &pipeWriter{header: make(http.Header), pipe: pipe, ready: make(chan struct{})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		err := serveRecovered(u.handler, w, req.WithContext(ctx))
		if err == nil && ctx.Err() != nil {
			// It ended because of its context: the answer is not complete.
			err = context.Cause(ctx)
		}
		w.finish(err)
	}()
	stop := context.AfterFunc(ctx, func() { pipe.CloseWithError(context.Cause(ctx)) })
	body := &pipeBody{PipeReader: reader, end: sync.OnceFunc(func() {
		stop()
		cancel()
		reader.Close()
		<-served
	})}
	select {
	case <-w.ready:
	case <-ctx.Done():
		body.Close()
		return nil, fmt.Errorf("wait for the model in process: %w", context.Cause(ctx))
	}
	if w.failed != nil {
		body.Close()
		return nil, fmt.Errorf("model in process: %w", w.failed)
	}
	return &Answer{Upstream: "script", Model: call.Model, Response: &http.Response{
		StatusCode: w.status, Header: w.sent, Body: body, ContentLength: -1,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
	}}, nil
}

// serveRecovered runs the handler and converts a panic to an error: it runs in
// its own goroutine, where a panic would end the process.
func serveRecovered(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			err = io.ErrUnexpectedEOF
		default:
			err = fmt.Errorf("handler panicked with a %T", v)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

// pipeWriter is the http.ResponseWriter of an in-process handler. Only the
// handler's goroutine uses it; other goroutines read the fields sent, status and
// failed after ready is closed.
type pipeWriter struct {
	header http.Header
	pipe   *io.PipeWriter
	ready  chan struct{}

	sent   http.Header
	status int
	failed error
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if w.status != 0 || status < 200 {
		return // already sent, or an informational answer, which is not used
	}
	w.status, w.sent = status, w.header.Clone()
	close(w.ready)
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		if w.header.Get("Content-Type") == "" {
			w.header.Set("Content-Type", http.DetectContentType(p))
		}
		w.WriteHeader(http.StatusOK)
	}
	return w.pipe.Write(p)
}

// FlushError sends the header; the body is never buffered.
func (w *pipeWriter) FlushError() error {
	w.WriteHeader(http.StatusOK)
	return nil
}

// Flush is FlushError for handlers that look for an http.Flusher.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

// finish ends the answer: successfully, or with err.
func (w *pipeWriter) finish(err error) {
	if w.status == 0 {
		w.failed = err
		w.WriteHeader(http.StatusOK)
	}
	w.pipe.CloseWithError(err) // nil is io.EOF
}

// pipeBody is the Body of an in-process answer. Close cancels the handler and
// waits for it.
type pipeBody struct {
	*io.PipeReader
	end func()
}

func (b *pipeBody) Close() error {
	b.end()
	return nil
}

// newRequest builds a request from the fields of call only.
func newRequest(ctx context.Context, base string, call Call) (*http.Request, error) {
	target := base + call.Path
	if call.Query != "" {
		target += "?" + call.Query
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(call.Body))
	if err != nil {
		return nil, errors.New("build the request for the model") // the cause quotes the address
	}
	req.Header = call.Header.Clone()
	return req, nil
}
