package socket_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// TestServerCloseWaitsForHandlers closes a server with a waiting and a hijacking
// handler in a directory whose path is longer than a socket address.
func TestServerCloseWaitsForHandlers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var ended atomic.Int32
	s, err := socket.Serve(ctx, dir, "s", 0o600, socket.Options{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "hello")
			rc := http.NewResponseController(w)
			_ = rc.Flush()
			if r.URL.Path == "/hijack" {
				conn, _, err := rc.Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				<-ctx.Done()
			} else {
				<-r.Context().Done()
			}
			time.Sleep(20 * time.Millisecond)
			ended.Add(1)
		}),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/hijack"} {
		c, err := socket.Dial(t.Context(), filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		expect(t, c, path)
	}
	cancel()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := ended.Load(); n != 2 {
		t.Errorf("%d of 2 handlers had ended when Close returned", n)
	}
	if _, err := os.Lstat(filepath.Join(dir, "s")); !os.IsNotExist(err) {
		t.Errorf("socket after Close: %v", err)
	}
}

// expect sends a request and waits for the beginning of its response.
func expect(t *testing.T, c net.Conn, path string) {
	t.Helper()
	_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for br := bufio.NewReader(c); ; {
		line, err := br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "hello") {
			return
		}
	}
}
