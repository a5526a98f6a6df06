package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

func TestStopWaitsForStreams(t *testing.T) {
	more := make(chan struct{})
	sv := start(t, options{run: func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("ready"))
		<-more
		_, _ = log.Append(dreamcore.DoneEvent())
	}})
	_, s := sv.open()
	if _, err := s.next(); err != nil {
		t.Fatal(err)
	}
	sv.stop()
	sv.closed()
	close(more)
	if f, err := s.next(); err != nil || f.data != string(dreamcore.DoneEvent()) {
		t.Errorf("got %v, %v", f, err)
	}
	if err := <-sv.stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// closed waits until the listener is closed.
func (sv *service) closed() {
	for {
		conn, err := net.Dial("tcp", sv.addr)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}

func TestStopCutsAfterTheGracePeriod(t *testing.T) {
	end := make(chan struct{})
	sv := start(t, options{
		config: func(c *Config) { c.Limits.GraceLimit = 50 * time.Millisecond },
		run: func(log *journal.Log) {
			_, _ = log.Append(dreamcore.StatusEvent("ready"))
			<-end
		},
		prober: fakeProber{stream: func(ctx context.Context, emit func(dreamcore.Event) error) error {
			_ = emit(dreamcore.StatusEvent("ready"))
			<-ctx.Done()
			return ctx.Err()
		}},
	})
	defer close(end)
	_, job := sv.open()
	check := readStream(t, sv.do(sv.request(http.MethodPost, "/test_stream", "{}")).Body)
	for _, s := range []*stream{job, check} {
		if _, err := s.next(); err != nil {
			t.Fatal(err)
		}
	}
	sv.stop()
	if err := <-sv.stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
	for _, s := range []*stream{job, check} {
		if f, err := s.next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("a cut stream looks complete: %v, %v", f, err)
		}
	}
}

func TestCutStreamLooksIncomplete(t *testing.T) {
	// The service keeps running, so nothing else closes the connection.
	sv := start(t, options{})
	end := make(chan struct{})
	sv.generator.run = func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("ready"))
		<-end
	}
	defer close(end)
	game := openVolumes(t)
	s, err := New(Config{
		Secrets:   func() []string { return []string{secret} },
		Generator: sv.generator, Jobs: sv.generator, Workspaces: sv.generator, Journal: sv.store, Prober: &fakeProber{}, Projects: game, Editor: aDesk(t, game), Skills: game,
	})
	if err != nil {
		t.Fatal(err)
	}
	base, cut := context.WithCancel(t.Context())
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.Config.BaseContext = func(net.Listener) context.Context { return base }
	srv.Start()
	defer srv.Close()
	sv.url = srv.URL
	_, events := sv.open()
	if _, err := events.next(); err != nil {
		t.Fatal(err)
	}
	cut()
	if f, err := events.next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v, %v", f, err)
	}
}

func TestServeWaitsForCutRequests(t *testing.T) {
	running := make(chan struct{})
	var ended atomic.Bool
	sv := start(t, options{
		config: func(c *Config) { c.Limits.GraceLimit = time.Millisecond },
		prober: fakeProber{io: func(ctx context.Context) (probe.IOResult, error) {
			close(running)
			<-ctx.Done()
			time.Sleep(100 * time.Millisecond) // the sandbox ends slowly
			ended.Store(true)
			return probe.IOResult{}, ctx.Err()
		}},
	})
	sv.raw(head("/test_sandbox_io", secret))
	<-running
	sv.stop()
	if err := <-sv.stopped; err != nil || !ended.Load() {
		t.Errorf("Serve: %v; the check has ended: %v", err, ended.Load())
	}
}

func TestServeReturnsListenerErrors(t *testing.T) {
	game := openVolumes(t)
	s, err := New(Config{
		Secrets:   func() []string { return []string{secret} },
		Generator: &fakeGenerator{}, Jobs: &fakeGenerator{}, Workspaces: &fakeGenerator{}, Journal: &journal.Store{}, Prober: &fakeProber{}, Projects: game, Editor: aDesk(t, game), Skills: game,
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := s.Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestSlowAndLargeHeadersAreRefused(t *testing.T) {
	sv := start(t, options{config: func(c *Config) {
		c.Limits.ReadHeaderTimeout = 50 * time.Millisecond
		c.Limits.MaxHeaderBytes = 8 << 10
	}})
	slow := sv.raw("POST /test_auth HTTP/1.1\r\nHost: x\r\n")
	if got, _ := io.ReadAll(slow); bytes.Contains(got, []byte(" 200 ")) {
		t.Errorf("slow: %q", got)
	}
	req := sv.request(http.MethodPost, "/test_auth", "")
	req.Header.Set("X-Large", strings.Repeat("x", 16<<10))
	if res := sv.do(req); res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("large: status %d", res.StatusCode)
	}
}

// logBuffer captures the log for a test.
type logBuffer struct{ safeBuffer }

func (b *logBuffer) attach(c *Config) {
	c.Logger = slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// text stops the service, after which nothing is logged, and returns the log.
func (b *logBuffer) text(sv *service) string {
	sv.client.CloseIdleConnections()
	sv.stop()
	<-sv.stopped
	return b.String()
}

func TestLogContainsNoSecretsOrPrompts(t *testing.T) {
	var log logBuffer
	sv := start(t, options{config: log.attach})
	res, s := sv.open()
	s.all()
	wrong := sv.request(http.MethodPost, "/test-auth", "the-body")
	wrong.Header.Set(SecretHeader, "wrong-guess")
	sv.do(wrong)
	sv.do(sv.request(http.MethodGet, "/nothing?token=in-the-query", ""))
	sv.post("/generate_game", body(quoted(user), quoted("the-project"), quoted("the-wish")))
	got := log.text(sv)
	for _, want := range []string{
		"endpoint=generate_game form=underscores", "job=" + sv.generator.ids[0], "user=" + user,
		"request=" + res.Header.Get("X-Request-Id"), "status=401", "form=dashes", "path=/nothing", "status=404",
		"status=400", "Invalid project_id",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in the log:\n%s", want, got)
		}
	}
	for _, secret := range []string{secret, "wrong-guess", "snake", "the-wish", "the-body", "the-project", "in-the-query"} {
		if strings.Contains(got, secret) {
			t.Errorf("%q is in the log:\n%s", secret, got)
		}
	}
}
