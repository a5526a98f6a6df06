package route

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// Buffers of a connection that is used once. Every open stream keeps the first one.
const (
	readBuffer  = 1 << 10
	writeBuffer = 4 << 10
)

var errHeader = errors.New("the header of the answer is too large")

// once sends each request on a connection of its own. It takes the goroutine of its
// caller and no other, since a router has thousands of open streams: http.Transport
// takes two more for each.
type once struct{ dial dial }

// RoundTrip implements http.RoundTripper. Interim answers (1xx) are left out.
func (o once) RoundTrip(r *http.Request) (*http.Response, error) {
	conn, err := o.dial(r.Context(), "tcp", r.URL.Host)
	if err != nil {
		return nil, err
	}
	if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.GotConn != nil {
		t.GotConn(httptrace.GotConnInfo{Conn: conn})
	}
	end := sync.OnceFunc(func() { _ = conn.Close() })
	forget := context.AfterFunc(r.Context(), end)
	resp, err := exchangeOn(conn, r)
	if err != nil {
		forget()
		end()
		if cause := context.Cause(r.Context()); cause != nil {
			err = cause
		}
		return nil, err
	}
	resp.Body = &onceBody{ReadCloser: resp.Body, ctx: r.Context(), end: func() { forget(); end() }}
	return resp, nil
}

// exchangeOn sends a request and reads the header of its answer. A cell may answer and
// close before it has read the whole request.
func exchangeOn(conn net.Conn, r *http.Request) (*http.Response, error) {
	out := *r
	out.Close = true
	if err := conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(conn, writeBuffer)
	sent := out.Write(w)
	if sent == nil {
		sent = w.Flush()
	}
	header := &io.LimitedReader{R: conn, N: maxHeader}
	from := bufio.NewReaderSize(header, readBuffer)
	for {
		resp, err := http.ReadResponse(from, r)
		switch {
		case err != nil && sent != nil:
			return nil, sent
		case err != nil && header.N <= 0:
			return nil, errHeader
		case err != nil:
			return nil, err
		case resp.StatusCode < http.StatusOK:
			continue // it has no body
		}
		header.N = 1<<63 - 1
		return resp, conn.SetDeadline(time.Time{})
	}
}

// onceBody is the body of an answer, whose end closes the connection.
type onceBody struct {
	io.ReadCloser
	ctx context.Context
	end func()
}

func (b *onceBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

// Close closes the connection before the body, which would read to its end.
func (b *onceBody) Close() error {
	b.end()
	_ = b.ReadCloser.Close() // fails, since the connection is closed
	return nil
}
