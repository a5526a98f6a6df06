package gateway

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// endless streams until its request is cancelled, which it then reports.
func endless(begun, ended chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		send(w, eventStart)
		close(begun)
		<-req.Context().Done()
		close(ended)
	}
}

func TestClientDisconnectCancelsUpstream(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	r := newRig(t, endless(begun, ended))
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := r.client.Do(r.request(testBody).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	within(t, "begin", begun)
	cancel()
	within(t, "the upstream's request", ended)
	r.grant.Revoke()
	wantFailure(t, r, "") // not a failure of the model
}

func TestGrantEndsWithItsJob(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	r := newRig(t, endless(begun, ended))
	job, cancel := context.WithCancel(t.Context())
	r.grant = r.socket.Grant(GrantOptions{Job: "job-2", Context: job})
	resp, err := r.client.Do(r.request(testBody))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	within(t, "begin", begun)
	cancel() // without calling Revoke
	within(t, "the upstream's request", ended)
	if a := r.do(r.request(testBody)); a.status != http.StatusUnauthorized {
		t.Errorf("the token of a cancelled job: %+v", a)
	}
	r.grant.Revoke()
	if late := r.socket.Grant(GrantOptions{Job: "job-3", Context: job}); late.begin() == nil {
		late.end()
		// The watch on a context that has ended runs in its own goroutine.
		within(t, "a grant of a job that has ended", late.ctx.Done())
	}
	wantFailure(t, r, "")
}

// An agent that is started before its job has the job's token.
func TestATokenIsWorthNothingBeforeItsGrant(t *testing.T) {
	asked := 0
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = io.WriteString(w, "{}")
	})
	token := NewToken()
	if other := NewToken(); other == token || len(token) != len(r.grant.Token()) {
		t.Errorf("tokens %q and %q", token, other)
	}
	ask := func() int {
		req := r.request(testBody)
		req.Header.Set("X-Api-Key", token)
		return r.do(req).status
	}
	if status := ask(); status != http.StatusUnauthorized || asked != 0 {
		t.Errorf("before: %d, %d requests", status, asked)
	}
	r.grant = r.socket.Grant(GrantOptions{Job: "job-2", Token: token})
	if status := ask(); status != http.StatusOK || asked != 1 || r.grant.Token() != token {
		t.Errorf("during: %d, %d requests, token %q", status, asked, r.grant.Token())
	}
	r.grant.Revoke()
	if status := ask(); status != http.StatusUnauthorized || asked != 1 {
		t.Errorf("after: %d, %d requests", status, asked)
	}
}

// TestATokenOfAnAgentThatWaitsOnlyCounts: its agent rehearses, which asks no model and is
// no attack.
func TestATokenOfAnAgentThatWaitsOnlyCounts(t *testing.T) {
	asked := 0
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = io.WriteString(w, `{"input_tokens":7}`)
	}, func(c *Config) { c.MaxBody = 1000 })
	r.grant.Revoke()
	token, other := NewToken(), NewToken()
	ask := func(token, path, body string) (int, string) {
		req := r.request(body, func(req *http.Request) {
			req.URL.Path = path
			req.Header.Set("X-Api-Key", token)
		})
		a := r.do(req)
		return a.status, a.body
	}
	r.socket.Await(other)
	r.socket.Await(token)
	if status, body := ask(token, countTokensPath, strings.Repeat("x", 400)); status != http.StatusOK || body != `{"input_tokens":100}` {
		t.Errorf("%d %s", status, body)
	}
	if log := r.log.String(); strings.Contains(log, "wrong token") {
		t.Errorf("the log: %s", log)
	}
	for what, got := range map[string]func() (int, string){
		"a message":        func() (int, string) { return ask(token, messagesPath, testBody) },
		"an earlier token": func() (int, string) { return ask(other, countTokensPath, testBody) },
		"no token":         func() (int, string) { return ask("", countTokensPath, testBody) },
	} {
		if status, _ := got(); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", what, status)
		}
	}
	if status, _ := ask(token, countTokensPath, strings.Repeat("x", 1001)); status != http.StatusBadRequest {
		t.Errorf("a large body: %d", status)
	}
	if asked != 0 {
		t.Errorf("%d requests reach the model", asked)
	}
	r.grant = r.socket.Grant(GrantOptions{Job: "job-2", Token: token})
	if status, body := ask(token, countTokensPath, strings.Repeat("x", 400)); status != http.StatusOK || body != `{"input_tokens":100}` || asked != 0 || r.grant.Usage().Requests != 0 {
		t.Errorf("at the begin of the job: %d %s, %d requests", status, body, asked)
	}
	if status, _ := ask(token, messagesPath, testBody); status != http.StatusOK || asked != 1 {
		t.Errorf("the first message: %d, %d requests", status, asked)
	}
	if status, body := ask(token, countTokensPath, testBody); status != http.StatusOK || body != `{"input_tokens":7}` || asked != 2 {
		t.Errorf("after it: %d %s, %d requests", status, body, asked)
	}
	r.grant.Revoke()
	if status, _ := ask(token, countTokensPath, testBody); status != http.StatusUnauthorized || asked != 2 {
		t.Errorf("after the job: %d, %d requests", status, asked)
	}
}

func TestClientDisconnectBeforeAnswerCancelsUpstream(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		close(begun)
		<-req.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if a := r.do(r.request(testBody).WithContext(ctx)); !errors.Is(a.err, context.Canceled) {
		t.Errorf("%v", a)
	}
	within(t, "the upstream's request", ended)
	r.grant.Revoke()
	wantFailure(t, r, "")
}

func TestRevokeCancelsRunningRequestsAndWaits(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	r := newRig(t, endless(begun, ended))
	answers := make(chan answer, 1)
	go func() { answers <- r.post(testBody) }()
	within(t, "begin", begun)
	r.grant.Revoke()
	if a := <-answers; a.err == nil { // before or after its header arrived
		t.Errorf("the answer was not cancelled: %v", a)
	}
	within(t, "the upstream's request", ended)
	wantFailure(t, r, "")
	wantRefusal(t, r.post(testBody), 401, "authentication_error")
}

func TestRevokeDoesNotWaitForSlowReader(t *testing.T) {
	var written atomic.Int64
	r := newRig(t, nil, func(c *Config) {
		c.WriteLimit = time.Hour
		c.Upstream = HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			beginStream(w)
			for {
				n, err := io.WriteString(w, strings.Repeat(eventText, 100))
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		}))
	})
	resp, err := r.client.Do(r.request(testBody))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	last := int64(-1)
	eventually(t, "the sandbox's buffers are full", func() bool {
		time.Sleep(50 * time.Millisecond)
		now := written.Load()
		full := now == last && now > 0
		last = now
		return full
	})
	done := make(chan struct{})
	go func() { defer close(done); r.grant.Revoke() }()
	within(t, "revoke", done)
}

func TestSlowReaderIsDisconnected(t *testing.T) {
	ended := make(chan struct{})
	r := newRig(t, nil, func(c *Config) {
		c.WriteLimit = 50 * time.Millisecond
		c.Upstream = HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			defer close(ended)
			beginStream(w)
			for {
				if _, err := io.WriteString(w, eventText); err != nil {
					return
				}
			}
		}))
	})
	resp, err := r.client.Do(r.request(testBody))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	within(t, "the upstream's request", ended)
	r.grant.Revoke()
	wantFailure(t, r, "")
}

func TestRevokeDoesNotWaitForIncompleteBody(t *testing.T) {
	r := newRig(t, goodStream, func(c *Config) { c.BodyReadLimit = time.Hour })
	c, err := dialUnix(r.socket.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: "+r.grant.Token()+"\r\nContent-Length: 100\r\n\r\n{")
	eventually(t, "the request is counted", func() bool {
		r.grant.mu.Lock()
		defer r.grant.mu.Unlock()
		return r.grant.inflight == 1 && r.grant.reserved > 0
	})
	done := make(chan struct{})
	go func() { defer close(done); r.grant.Revoke() }()
	within(t, "revoke", done)
}

func TestRevokeDoesNotAffectOtherGrants(t *testing.T) {
	r := newRig(t, goodStream)
	second := r.socket.Grant(GrantOptions{Job: "job-2"})
	defer second.Revoke()
	r.grant.Revoke()
	if a := r.do(r.request(testBody, func(req *http.Request) { req.Header.Set("X-Api-Key", second.Token()) })); a.status != 200 {
		t.Errorf("%v", a)
	}
}

func TestClosedSocketServesNothing(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	r := newRig(t, endless(begun, ended))
	idle, err := dialUnix(r.socket.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answers := make(chan answer, 1)
	go func() { answers <- r.post(testBody) }()
	within(t, "begin", begun)
	if err := r.socket.Close(); err != nil {
		t.Error(err)
	}
	if a := <-answers; a.err == nil {
		t.Errorf("the answer was not cancelled: %v", a)
	}
	within(t, "the upstream's request", ended)
	if _, err := os.Lstat(r.socket.Path()); !os.IsNotExist(err) {
		t.Errorf("the socket file is still there: %v", err)
	}
	if n, err := idle.Read(make([]byte, 1)); err == nil {
		t.Errorf("the idle connection is open: %d", n)
	}
	if err := r.socket.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
	late := r.socket.Grant(GrantOptions{})
	if late.begin() == nil {
		t.Error("a grant of a closed socket is good")
	}
	if err := r.gw.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.gw.Listen(t.TempDir()); err == nil {
		t.Error("a closed gateway listens")
	}
}

func TestGatewayCloseEndsWithItsContext(t *testing.T) {
	release := make(chan struct{})
	begun := make(chan struct{})
	r := newRig(t, nil, func(c *Config) {
		c.Upstream = HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(begun)
			<-release // a model that ignores its context
		}))
	})
	go r.post(testBody)
	within(t, "begin", begun)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := r.gw.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	close(release)
}

func TestListen(t *testing.T) {
	g := New(Config{})
	defer g.Close(t.Context())

	t.Run("a path longer than a socket address", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), strings.Repeat("d", 200))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := g.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.Path() != filepath.Join(dir, "api.sock") {
			t.Errorf("path %q", s.Path())
		}
		st, err := os.Lstat(s.Path())
		if err != nil || st.Mode().Type() != os.ModeSocket || st.Mode().Perm() != 0o666 {
			t.Errorf("%v %v", st.Mode(), err)
		}
		resp, err := newClient(t, s.Path()).Head("http://model.invalid/")
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("%v %v", resp, err)
		}
	})
	t.Run("a socket that was left", func(t *testing.T) {
		dir := t.TempDir()
		old, err := g.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		s, err := g.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := old.Close(); err != nil { // must not remove the new socket
			t.Error(err)
		}
		if resp, err := newClient(t, s.Path()).Head("http://model.invalid/"); err != nil || resp.StatusCode != 200 {
			t.Errorf("%v %v", resp, err)
		}
	})
	t.Run("something else of that name", func(t *testing.T) {
		target := filepath.Join(t.TempDir(), "target")
		for _, put := range []func(string) error{
			func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) },
			func(p string) error { return os.Symlink(target, p) },
			func(p string) error { return os.Mkdir(p, 0o700) },
		} {
			dir := t.TempDir()
			if err := put(filepath.Join(dir, SocketName)); err != nil {
				t.Fatal(err)
			}
			if _, err := g.Listen(dir); dreamcore.CodeOf(err) != dreamcore.CodeSetup || dreamcore.HintOf(err) == "" {
				t.Errorf("%v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, SocketName)); err != nil {
				t.Errorf("it was removed: %v", err)
			}
		}
	})
	t.Run("no directory", func(t *testing.T) {
		if _, err := g.Listen(filepath.Join(t.TempDir(), "no")); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
			t.Errorf("%v", err)
		}
	})
	t.Run("a directory that goes away", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := g.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	r := newRig(t, goodStream, func(c *Config) { c.MaxConns = 1 })
	first, err := dialUnix(r.socket.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, _ = io.WriteString(first, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() { got <- r.raw("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") }()
	select {
	case a := <-got:
		t.Fatalf("the second connection was served: %q", a)
	case <-time.After(100 * time.Millisecond):
	}
	first.Close()
	if a := <-got; !strings.HasPrefix(a, "HTTP/1.1 200 ") {
		t.Errorf("%q", a)
	}
}

func TestSandboxCannotFillTheLog(t *testing.T) {
	r := newRig(t, status(401))
	for range 3 * maxLoudLines {
		r.post(testBody)
		r.post("")
		r.do(r.request(testBody, func(req *http.Request) { req.Header.Set("X-Api-Key", "x") }))
	}
	for _, level := range []string{"level=ERROR", "level=WARN"} {
		if n := strings.Count(r.log.String(), level); n == 0 || n > 2*maxLoudLines {
			t.Errorf("%d lines of %s", n, level)
		}
	}
}

// faults is an upstream that fails in a random way for each request.
func faults(w http.ResponseWriter, req *http.Request) {
	_, _ = io.Copy(io.Discard, req.Body)
	switch rand.N(9) {
	case 0:
		status(500)(w, req)
	case 1:
		status(429)(w, req)
	case 2:
		status(302, "Location", "/")(w, req)
	case 3:
		panic(http.ErrAbortHandler)
	case 4:
		beginStream(w)
		send(w, eventStart)
		panic(http.ErrAbortHandler)
	case 5: // a stall within the stream
		beginStream(w)
		send(w, eventStart)
		<-req.Context().Done()
	case 6: // no answer
		<-req.Context().Done()
	case 7:
		beginStream(w)
		send(w, strings.Repeat(eventText, 2000)+eventStop)
	default:
		goodStream(w, req)
	}
}

// stormRequests is the number of requests for each of the two kinds of upstreams:
// 10,000 in total.
const stormRequests = 5000

// countingMeter counts the reservations that have not ended.
type countingMeter struct{ open, reports atomic.Int64 }

func (m *countingMeter) Reserve(string, int64, int64) (func(dreamcore.Spent, bool) dreamcore.Nano, error) {
	if rand.N(20) == 0 {
		return nil, &dreamcore.OverBudget{Limit: "x", After: time.Duration(rand.N(2)) * time.Second}
	}
	m.open.Add(1)
	return func(_ dreamcore.Spent, last bool) dreamcore.Nano {
		if m.reports.Add(1); last {
			m.open.Add(-1)
		}
		return 0
	}, nil
}

func TestTenThousandFaultsLeaveNothingBehind(t *testing.T) {
	// Collect garbage often: a collection once found a dead value that an abort
	// had kept referenced, see exchange.serve.
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	if ln, err := net.Listen("tcp", "127.0.0.1:0"); err != nil || ln.Close() != nil {
		t.Fatal(err) // the first one also opens files that the runtime keeps
	}
	before := openFiles(t)
	stable := goroutines()
	server := httptest.NewServer(http.HandlerFunc(faults))
	t.Run("requests", func(t *testing.T) {
		for name, upstream := range map[string]Upstream{"network": nil, "process": HandlerUpstream(http.HandlerFunc(faults))} {
			t.Run(name, func(t *testing.T) {
				r := newRigAt(t, server.URL, func(c *Config) {
					c.RetryLimit = 1 << 30
					c.IdleLimit, c.HeaderLimit = 10*time.Millisecond, 20*time.Millisecond
					if upstream != nil {
						c.Upstream = upstream
					}
				})
				meter := &countingMeter{}
				storm(r, stormRequests, meter)
				r.socket.mu.Lock()
				defer r.socket.mu.Unlock()
				if n := len(r.socket.grants); n != 1 { // the rig's own
					t.Errorf("%d tokens are still good", n)
				}
				if m := meter.open.Load(); m != 0 {
					t.Errorf("%d reservations are left", m)
				}
			})
		}
	})
	server.Close()
	eventually(t, "files as before", func() bool { return openFiles(t) <= before })
	eventually(t, "goroutines as before", func() bool { return goroutines() <= stable })
}

// storm sends n requests, 32 at a time, each with its own grant, which is revoked,
// or a client, which disconnects, at a random time.
func storm(r *rig, n int, meter Meter) {
	work := make(chan struct{})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range work {
				gr := r.socket.Grant(GrantOptions{Meter: meter})
				ctx, cancel := context.WithCancel(context.Background())
				var after *time.Timer
				switch rand.N(4) {
				case 0:
					after = time.AfterFunc(rand.N(5*time.Millisecond), cancel)
				case 1:
					after = time.AfterFunc(rand.N(5*time.Millisecond), gr.Revoke)
				}
				r.do(r.request(testBody, func(req *http.Request) {
					*req = *req.WithContext(ctx)
					req.Header.Set("X-Api-Key", gr.Token())
				}))
				if after != nil {
					after.Stop()
				}
				cancel()
				gr.Revoke()
			}
		})
	}
	for range n {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
}
