package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

const largeHeader = 50 << 10

// TestHeadersAreBoundedTogether reads more unfinished headers than may be in
// memory at once.
func TestHeadersAreBoundedTogether(t *testing.T) {
	s := Front{HeaderBytes: 64 << 10, Limits: Limits{ReadHeaderTimeout: 200 * time.Millisecond}} // room for two
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := s.boundHeaders(tcp)
	defer ln.Close()
	open := func(length int) (*headerConn, error) {
		client, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := client.Write(make([]byte, length)); err != nil {
			t.Fatal(err)
		}
		for buf := make([]byte, 4096); length > 0 && err == nil; {
			var n int
			n, err = c.Read(buf)
			length -= n
		}
		return c.(*headerConn), err
	}
	first, err := open(largeHeader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(largeHeader); err != nil {
		t.Fatal(err)
	}
	third, err := open(largeHeader)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third large header: %v", err)
	}
	followHeaders(third, http.StateClosed)
	if _, err := open(headerFree - 4096); err != nil {
		t.Errorf("a small header alongside large ones: %v", err)
	}
	followHeaders(first, http.StateIdle)
	fourth, err := open(largeHeader)
	if err != nil {
		t.Errorf("a large header after another one: %v", err)
	}
	// A body is not counted.
	fourth.headerRead()
	if !fourth.reserve(1 << 30) {
		t.Error("a body was counted")
	}
}

// TestRequestReleasesItsHeaderMemory sends more requests with large headers on one
// connection than fit at once.
func TestRequestReleasesItsHeaderMemory(t *testing.T) {
	sv := start(t, options{config: func(c *Config) {
		c.Previews = nil // with previews, a single header may be larger
		c.Limits.MaxHeaders, c.Limits.ReadHeaderTimeout = 1, time.Second
	}})
	c, err := net.Dial("tcp", sv.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	answers := bufio.NewReader(c)
	for range 8 {
		_, _ = fmt.Fprintf(c, "GET /health HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", largeHeader))
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
}
