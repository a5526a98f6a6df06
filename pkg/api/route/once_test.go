package route

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// onceTo sends a request to an address.
func onceTo(t *testing.T, ctx context.Context, address, body string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/x?y=1", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Test", "a")
	resp, err := once{newDial()}.RoundTrip(r)
	if err == nil {
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	return resp, err
}

func TestAConnectionForOneRequest(t *testing.T) {
	ignored := goleak.IgnoreCurrent()
	var closed bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		closed = r.Close
		w.WriteHeader(http.StatusProcessing)
		w.WriteHeader(http.StatusTeapot)
		_, _ = fmt.Fprint(w, r.Method, r.URL, r.Header.Get("X-Test"), len(raw), err)
		_ = http.NewResponseController(w).Flush()
		_, _ = fmt.Fprint(w, strings.Repeat(" end", 5000))
	}))
	resp, err := onceTo(t, t.Context(), srv.Listener.Addr().String(), strings.Repeat("b", 100_000))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if text := string(raw); err != nil || resp.StatusCode != http.StatusTeapot || !strings.HasPrefix(text, "POST/x?y=1a100000 <nil>") || len(text) < 20_000 {
		t.Errorf("%s %d bytes %v: %.50s", resp.Status, len(raw), err, raw)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	srv.Close()
	if !closed {
		t.Error("the cell is not told that the connection is used once")
	}
	goleak.VerifyNone(t, ignored)
}

// answers serves every connection with a text, before it has read the request if it
// is early.
func answers(t *testing.T, text string, early bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !early {
				_, _ = c.Read(make([]byte, 4096))
			}
			_, _ = io.WriteString(c, text)
			_ = c.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}

func TestAnswersThatAreNoAnswers(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                 "",
		"no HTTP":                 "hello\r\n\r\n",
		"half a header":           "HTTP/1.1 200 OK\r\nA: b",
		"interim answers only":    strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 10),
		"an endless header":       "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxHeader),
		"endless interim answers": strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxHeader/10),
	} {
		if resp, err := onceTo(t, t.Context(), answers(t, text, false), "x"); err == nil {
			t.Errorf("%s: %s", name, resp.Status)
		} else if strings.Contains(name, "endless") != errors.Is(err, errHeader) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAnswerThatComesBeforeTheRequest(t *testing.T) {
	address := answers(t, "HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\nno", true)
	resp, err := onceTo(t, t.Context(), address, strings.Repeat("x", 1<<20))
	if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("%v %v", resp, err)
	}
	if raw, err := io.ReadAll(resp.Body); err != nil || string(raw) != "no" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestTheEndOfARequestEndsItsConnection(t *testing.T) {
	why := errors.New("why")
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(release)
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	resp, err := onceTo(t, ctx, srv.Listener.Addr().String(), "x")
	if err != nil {
		t.Fatal(err)
	}
	cancel(why)
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, why) {
		t.Errorf("the body ends with %v", err)
	}
	<-release
	// Before the header has come, too.
	ctx, cancel = context.WithCancelCause(t.Context())
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	go func() {
		if c, err := silent.Accept(); err == nil {
			_, _ = c.Read(make([]byte, 1))
			cancel(why)
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	if _, err := onceTo(t, ctx, silent.Addr().String(), "x"); !errors.Is(err, why) {
		t.Errorf("the request ends with %v", err)
	}
	// Nobody listens.
	address := silent.Addr().String()
	_ = silent.Close()
	var d dialError
	if _, err := onceTo(t, t.Context(), address, "x"); !errors.As(err, &d) {
		t.Errorf("%v is no error of the connection", err)
	}
}
