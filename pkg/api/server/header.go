package server

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	headerFree = 16 << 10 // bytes of a header free of charge
	headerStep = 32 << 10 // bytes that are reserved at a time
)

// headerListener bounds the memory for the headers of all its connections
// together: any client can send headers, without a secret, and leave them
// unfinished.
type headerListener struct {
	net.Listener
	room     *semaphore.Weighted
	patience time.Duration
}

// boundHeaders returns a listener on ln that bounds headers.
func (f Front) boundHeaders(ln net.Listener) *headerListener {
	size := max(f.Limits.MaxHeaders, int64(f.HeaderBytes+2*headerStep)) // at least one always fits
	return &headerListener{Listener: ln, room: semaphore.NewWeighted(size), patience: f.Limits.ReadHeaderTimeout / 2}
}

// Accept implements net.Listener.
func (l *headerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &headerConn{TCPConn: tcp, listener: l, header: true}, err
	}
	return c, err
}

// headerConn is a connection that counts each header from its first byte to the
// end of the request, which keeps it in memory.
type headerConn struct {
	*net.TCPConn
	listener *headerListener

	mu     sync.Mutex
	header bool  // guarded by mu; reads belong to a header
	read   int64 // guarded by mu; bytes of the header
	held   int64 // guarded by mu; reserved from headerListener.room
}

// Read implements net.Conn. It waits until there is room for the header.
func (c *headerConn) Read(p []byte) (int, error) {
	if !c.reserve(len(p)) {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.TCPConn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.header {
		c.read += int64(n)
	}
	return n, err
}

// reserve reserves room for n more bytes of a header.
func (c *headerConn) reserve(n int) bool {
	c.mu.Lock()
	enough := !c.header || c.read+int64(n) <= headerFree+c.held
	c.mu.Unlock()
	if enough {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.listener.patience)
	defer cancel()
	if c.listener.room.Acquire(ctx, headerStep) != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held += headerStep
	return true
}

// headerRead marks the end of the header: the body follows.
func (c *headerConn) headerRead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header = false
}

// requestEnded marks the end of the request: another header follows.
func (c *headerConn) requestEnded() {
	c.mu.Lock()
	held := c.held
	c.header, c.read, c.held = true, 0, 0
	c.mu.Unlock()
	c.listener.room.Release(held)
}

// followHeaders is the ConnState callback of the http.Server.
func followHeaders(c net.Conn, state http.ConnState) {
	if c, ok := c.(*headerConn); ok && (state == http.StateIdle || state == http.StateClosed) {
		c.requestEnded()
	}
}

type headerConnKey struct{}

// trackHeaders notifies connections of the end of headers.
func trackHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(headerConnKey{}).(*headerConn); ok {
			c.headerRead()
		}
		next.ServeHTTP(w, r)
	})
}
