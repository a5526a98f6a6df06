package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestHeadersAreBoundedTogether leaves more unfinished headers than may be in
// memory at once.
func TestHeadersAreBoundedTogether(t *testing.T) {
	sv := start(t, options{config: func(c *Config) {
		c.Previews = nil // with it, one header alone may be larger
		c.Limits.MaxHeaders, c.Limits.ReadHeaderTimeout = 1, 3*time.Second // room for two
	}})
	u, err := url.Parse(sv.url)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(length int) net.Conn {
		c, err := net.Dial("tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = fmt.Fprintf(c, "GET /health HTTP/1.1\r\nHost: x\r\nX: %s", strings.Repeat("x", length))
		return c
	}
	status := func(c net.Conn) string {
		_, _ = io.WriteString(c, "\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err.Error()
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Status
	}
	const large = 50 << 10
	first, second := dial(large), dial(large)
	// Until the first two are read, a third one may come before them.
	refused := false
	for end := time.Now().Add(10 * time.Second); !refused && time.Now().Before(end); {
		refused = status(dial(large)) != "200 OK"
	}
	if !refused {
		t.Error("a third large header was read")
	}
	if got := status(dial(8 << 10)); got != "200 OK" {
		t.Errorf("a small header beside large ones: %s", got)
	}
	// A request gives back what its header took, however it ends, and however
	// many there are on a connection.
	first.Close()
	second.Close()
	third := dial(large)
	for range 5 {
		if got := status(third); got != "200 OK" {
			t.Fatalf("a large header after the others: %s", got)
		}
		_, _ = fmt.Fprintf(third, "GET /health HTTP/1.1\r\nHost: x\r\nX: %s", strings.Repeat("x", large))
	}
}
