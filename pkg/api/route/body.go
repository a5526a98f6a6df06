package route

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Memory for the bodies of all requests, and how much of it those may take that wait
// for a cell: requests for other cells need the rest.
const (
	maxBodies   = 3 * server.DefaultMaxApplyBody
	maxHeldBody = maxBodies / 2
)

// body is the body of a request, kept until a cell has taken it.
type body struct {
	bytes   []byte
	release func() // of its memory
}

var noBody = &body{release: func() {}}

// reader returns the body from its beginning.
func (b *body) reader() io.ReadCloser {
	if len(b.bytes) == 0 {
		return http.NoBody
	}
	r := &bodyReader{}
	r.from.Reset(b.bytes)
	return r
}

// bodyReader forgets the body when it is closed: the transport keeps the reader for as
// long as an answer lasts.
type bodyReader struct {
	mu   sync.Mutex
	from bytes.Reader // guarded by mu
}

func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.from.Read(p)
}

func (r *bodyReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.from.Reset(nil)
	return nil
}

// readBody reads the body of a request within the limit of its endpoint, when there is
// memory for it. The caller must call release.
func (rt *Router) readBody(x *exchange, limit int64) (*body, error) {
	r := x.r
	if r.ContentLength == 0 {
		return noBody, nil
	}
	if r.ContentLength > limit {
		return nil, errTooLarge(limit)
	}
	size := limit
	if r.ContentLength > 0 {
		size = r.ContentLength
	}
	ctx, cancel := context.WithTimeout(r.Context(), server.DefaultApplyPatience)
	defer cancel()
	if rt.bodies.Acquire(ctx, size) != nil {
		return nil, &dreamcore.Error{Code: codeRouter, Message: "The router has no memory for this body at the moment", Hint: "send the request again after the time in Retry-After"}
	}
	b := &body{release: sync.OnceFunc(func() { rt.bodies.Release(size) })}
	_ = x.Control.SetReadDeadline(time.Now().Add(server.DefaultReadTimeout)) // from now on, not from the header on
	var err error
	if b.bytes, err = readAll(r.Body, size); err == nil && r.ContentLength < 0 {
		surplus := size - int64(len(b.bytes))
		rt.bodies.Release(surplus)
		size -= surplus
	}
	switch {
	case err == nil:
		x.bodyRead = true
		return b, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = &dreamcore.Error{Code: codeSlow, Message: "The request body came too slowly", Err: err}
	case !errors.Is(err, errLong):
		err = &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid JSON", Hint: "send one JSON object in UTF-8", Err: err}
	default:
		err = errTooLarge(limit)
	}
	b.release()
	return nil, err
}

var errLong = errors.New("the body is too long")

// readAll reads up to limit bytes. Its memory grows with what arrives.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = errLong
	}
	return b.Bytes(), err
}

// holds bounds the requests that wait for a cell.
type holds struct {
	mu        sync.Mutex
	count     int // guarded by mu
	strangers int // guarded by mu; without a secret
	most      int
	bytes     *semaphore.Weighted
}

// enter counts a request that begins to wait; ok is false if there are too many. The
// caller must call leave.
func (h *holds) enter(stranger bool, bytes int64) (leave func(), ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count >= h.most || stranger && h.strangers >= max(1, h.most/4) || !h.bytes.TryAcquire(bytes) {
		return nil, false
	}
	h.count++
	if stranger {
		h.strangers++
	}
	return func() {
		h.bytes.Release(bytes)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.count--
		if stranger {
			h.strangers--
		}
	}, true
}

// now returns how many requests wait.
func (h *holds) now() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}
