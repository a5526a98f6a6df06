package upstream

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream/upstreamtest"
)

func always(status int) func(int) int { return func(int) int { return status } }

// deadAddress is an address without a listener.
func deadAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestNextUpstreamIsTriedIfFirstFails(t *testing.T) {
	cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer cut.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	for name, first := range map[string]string{"nobody listens": deadAddress(t), "cut": cut.URL, "unknown certificate": secure.URL} {
		m := &model{}
		r := newRig(t, testSecrets, plainEntry("a", first), plainEntry("b", m.serve(t)))
		if s := r.send(call(testBody)); s.err != nil || s.Upstream != "b" || s.body != wholeStream {
			t.Errorf("%s: %v", name, s)
		}
		if !strings.Contains(r.logged(), "level=WARN") || !strings.Contains(r.logged(), "upstream=a") {
			t.Errorf("%s: the log has no alarm:\n%s", name, r.logged())
		}
	}
	for status, moves := range map[int]bool{
		500: true, 502: true, 503: true, 504: true, 529: true, 408: true, 429: true, 401: true, 402: true, 403: true,
		400: false, 404: false, 413: false, 422: false,
	} {
		a, b := &model{fails: always(status)}, &model{}
		r := newRig(t, testSecrets, plainEntry("a", a.serve(t)), plainEntry("b", b.serve(t)))
		s := r.send(call(testBody))
		if moves && (s.err != nil || s.Upstream != "b" || s.StatusCode != 200) || !moves && (s.err != nil || s.Upstream != "a" || s.StatusCode != status || b.count() != 0) {
			t.Errorf("status %d: %v", status, s)
		}
		alarm := strings.Contains(r.logged(), "level=ERROR") && strings.Contains(r.logged(), "replace the secret key-a")
		if alarm != (status == 401 || status == 402 || status == 403) {
			t.Errorf("status %d: alarm %v\n%s", status, alarm, r.logged())
		}
	}
}

func TestSlowUpstreamIsAbandonedForNext(t *testing.T) {
	gone := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(gone)
	}))
	defer slow.Close()
	m := &model{}
	a := plainEntry("a", slow.URL)
	a.HeaderTimeout = time.Second
	r := newRig(t, testSecrets, a, plainEntry("b", m.serve(t)))
	if s := r.send(call(testBody)); s.err != nil || s.Upstream != "b" || s.body != wholeStream {
		t.Errorf("%v", s)
	}
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the slow one still works on it")
	}
}

func TestNoRetryOnceAnAnswerHasStarted(t *testing.T) {
	begun := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, wholeStream[:60])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer begun.Close()
	m := &model{}
	r := newRig(t, testSecrets, plainEntry("a", begun.URL), plainEntry("b", m.serve(t)))
	if s := r.send(call(testBody)); s.err == nil || s.Answer == nil || s.Upstream != "a" || s.body != wholeStream[:60] || m.count() != 0 {
		t.Errorf("%v, then %d", s, m.count())
	}
}

func TestNextUpstreamIsTriedForUnknownModel(t *testing.T) {
	v := upstreamtest.NewVertex(t, "p", "us-east5", &model{})
	m := &model{}
	r := newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}, "key-a": testSecrets["key-a"]}, vertexEntry(v), plainEntry("b", m.serve(t)))
	if s := r.send(call(strings.Replace(testBody, "m-1", "openai/x", 1))); s.err != nil || s.Upstream != "b" || s.body != wholeStream || r.logged() != "" {
		t.Errorf("%v\n%s", s, r.logged())
	}
	if s := r.send(call(testBody)); s.err != nil || s.Upstream != "vertex" || s.body != wholeStream {
		t.Errorf("%v", s)
	}
}

func TestAnswerIfAllUpstreamsFail(t *testing.T) {
	for name, tc := range map[string]struct {
		first, second int
		want          int
		from          string
	}{
		"both are busy":                 {429, 429, 429, "a"},
		"busy stands before broken":     {500, 429, 429, "b"},
		"broken before a refused key":   {401, 503, 503, "b"},
		"overloaded before broken":      {529, 500, 529, "a"},
		"two refused keys":              {401, 403, 401, "a"},
		"the request's fault at the 2d": {503, 400, 400, "b"},
	} {
		a, b := &model{fails: always(tc.first)}, &model{fails: always(tc.second)}
		r := newRig(t, testSecrets, plainEntry("a", a.serve(t)), plainEntry("b", b.serve(t)))
		s := r.send(call(testBody))
		if s.err != nil || s.StatusCode != tc.want || s.Upstream != tc.from || s.Header.Get("Retry-After") != "7" || !strings.Contains(s.body, "status ") {
			t.Errorf("%s: %v", name, s)
		}
	}
	r := newRig(t, testSecrets, plainEntry("a", deadAddress(t)), plainEntry("b", deadAddress(t)))
	if s := r.send(call(testBody)); s.err == nil || errors.Is(s.err, gateway.ErrNoCredential) {
		t.Errorf("no listener: %v", s)
	}
	r = newRig(t, secrets{}, plainEntry("a", deadAddress(t)))
	if s := r.send(call(testBody)); !errors.Is(s.err, gateway.ErrNoCredential) || dreamcore.HintOf(s.err) != "replace the secret key-a: dreamcore secret create --force key-a KEY=- < FILE" {
		t.Errorf("no key: %v, %s", s, dreamcore.HintOf(s.err))
	}
}

func TestFailingUpstreamIsSkippedAndTriedAgain(t *testing.T) {
	down := true
	a, b := &model{fails: func(int) int {
		if down {
			return 500
		}
		return 0
	}}, &model{}
	entry := plainEntry("a", a.serve(t))
	r := newRig(t, testSecrets, entry, plainEntry("b", b.serve(t)))
	clock := time.Now()
	r.now = func() time.Time { return clock }
	ask := func(want string, asked int) {
		t.Helper()
		if s := r.send(call(testBody)); s.err != nil || s.Upstream != want || a.count() != asked {
			t.Fatalf("%v, the first was asked %d times, want %d", s, a.count(), asked)
		}
	}
	// The 500 has retry-after: 7, which applies only to a busy upstream.
	ask("b", 1)
	ask("b", 1)
	clock = clock.Add(2 * time.Second)
	ask("b", 2) // the pause was 2 s
	clock = clock.Add(3 * time.Second)
	ask("b", 2) // and is now 4 s
	clock = clock.Add(time.Second)
	ask("b", 3)
	for range 8 {
		clock = clock.Add(maxBackoff)
		ask("b", a.count()+1)
	}
	down = false
	asked := a.count()
	ask("b", asked)
	clock = clock.Add(maxBackoff)
	ask("a", asked+1)
	ask("a", asked+2)
	if !strings.Contains(r.logged(), "answers again") || strings.Count(r.logged(), "level=WARN") != 1 {
		t.Errorf("log:\n%s", r.logged())
	}
}

func TestOnlyOneRequestTriesFailingUpstream(t *testing.T) {
	var x backoff
	now := time.Now()
	for range 2 {
		if !x.reserve(now) {
			t.Fatal("a working upstream is not available to all")
		}
	}
	x.failed(0, now)
	now = now.Add(firstBackoff)
	if !x.ready(now) || !x.reserve(now) || x.reserve(now) || x.ready(now) {
		t.Error("not exactly one request tries")
	}
	x.release(now)
	if !x.reserve(now) {
		t.Error("the reservation was not released")
	}
	if now = now.Add(probeTimeout); !x.reserve(now) {
		t.Error("an attempt without a result blocks forever")
	}
	if x.failed(30*time.Second, now); x.ready(now.Add(29*time.Second)) || !x.ready(now.Add(30*time.Second)) {
		t.Error("the requested wait is ignored")
	}
}

func TestAllAreTriedIfAllAreSkipped(t *testing.T) {
	a, b := &model{fails: func(n int) int { return 503 * (n % 2) }}, &model{fails: func(n int) int { return 503 * (n % 2) }}
	r := newRig(t, testSecrets, plainEntry("a", a.serve(t)), plainEntry("b", b.serve(t)))
	if s := r.send(call(testBody)); s.err != nil || s.StatusCode != 503 {
		t.Fatalf("%v", s)
	}
	if s := r.send(call(testBody)); s.err != nil || s.StatusCode != 200 || s.Upstream != "a" {
		t.Errorf("%v", s)
	}
}

func TestBusyUpstreamIsSkippedForTheRequestedTime(t *testing.T) {
	a, b := &model{fails: always(429)}, &model{}
	r := newRig(t, testSecrets, plainEntry("a", a.serve(t)), plainEntry("b", b.serve(t)))
	clock := time.Now()
	r.now = func() time.Time { return clock }
	for _, want := range []int{1, 1, 2} { // after 0, 6 and 12 s; it requests 7
		if s := r.send(call(testBody)); s.err != nil || s.Upstream != "b" || a.count() != want {
			t.Errorf("%v, asked %d times, want %d", s, a.count(), want)
		}
		clock = clock.Add(6 * time.Second)
	}
}

func TestBusyUpstreamMayRequestADate(t *testing.T) {
	for _, status := range []int{429, 503, 529} {
		busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(40*time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(status)
		}))
		r := newRig(t, testSecrets, plainEntry("a", busy.URL), plainEntry("b", (&model{}).serve(t)))
		if s := r.send(call(testBody)); s.err != nil || s.Upstream != "b" {
			t.Errorf("%d: %v", status, s)
		}
		if b := &r.members[0].backoff; b.ready(time.Now().Add(30*time.Second)) || !b.ready(time.Now().Add(41*time.Second)) {
			t.Errorf("%d: not skipped for the requested time", status)
		}
		busy.Close()
	}
}

func TestFirewallInFrontOfUpstreamIsReported(t *testing.T) {
	wall := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(403)
		_, _ = io.WriteString(w, "\n<!doctype html><title>Attention</title>")
	}))
	defer wall.Close()
	r := newRig(t, testSecrets, plainEntry("a", wall.URL), plainEntry("b", (&model{}).serve(t)))
	if s := r.send(call(testBody)); s.err != nil || s.Upstream != "b" || !strings.Contains(r.logged(), "page of HTML") || strings.Contains(r.logged(), "replace the secret") {
		t.Errorf("%v\n%s", s, r.logged())
	}
	// Also in front of a cloud.
	for _, answer := range []func(*http.Response){func(resp *http.Response) { (&bedrockDialect{}).Answer(gateway.Call{}, resp) }, func(resp *http.Response) { (&vertexDialect{}).Answer(gateway.Call{}, resp) }} {
		resp := &http.Response{StatusCode: 403, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>"))}
		answer(resp)
		if text, _ := io.ReadAll(resp.Body); string(text) != "<html>" {
			t.Errorf("the page became %s", text)
		}
	}
}

func TestNextUpstreamIsTriedAfterErrorWithStatus200(t *testing.T) {
	for body, moves := range map[string]bool{
		`{"type":"error","error":{"type":"overloaded_error","message":"x"}}`: true, `{"error":"Overloaded"}`: true, `{"type":"error","error":{"type":"invalid_request_error","message":"x"}}`: false,
		`{"type":"message","content":[],"error":null}`: false, `{"input_tokens":7}`: false, "": true, "<html>": true,
	} {
		odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if body == "<html>" {
				w.Header().Set("Content-Type", "text/HTML; charset=utf-8")
			}
			_, _ = io.WriteString(w, body)
		}))
		b := &model{}
		r := newRig(t, testSecrets, plainEntry("a", odd.URL), plainEntry("b", b.serve(t)))
		if s := r.send(call(testBody)); s.err != nil || moves != (s.Upstream == "b") || !moves && s.body != body {
			t.Errorf("%s: %v", body, s)
		}
		odd.Close()
	}
}

func TestNextUpstreamIsTriedIfAccountHasNoCredit(t *testing.T) {
	for status, body := range map[int]string{
		400: `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}`,
		200: `{"error":{"type":"billing_error","message":"x"}}`,
		429: `{"error":{"type":"insufficient_quota","message":"x"}}`,
	} {
		dry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		r := newRig(t, testSecrets, plainEntry("a", dry.URL), plainEntry("b", (&model{}).serve(t)))
		if s := r.send(call(testBody)); s.err != nil || s.Upstream != "b" || !strings.Contains(r.logged(), "level=ERROR") {
			t.Errorf("%d: %v\n%s", status, s, r.logged())
		}
		dry.Close()
	}
}

func TestCancelledCallIsNotAFailure(t *testing.T) {
	arrived := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
	}))
	defer slow.Close()
	b := &model{}
	r := newRig(t, testSecrets, plainEntry("a", slow.URL), plainEntry("b", b.serve(t)))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if a, err := r.Send(ctx, call(testBody)); err == nil {
		a.Body.Close()
		t.Fatal("an answer")
	}
	if !r.members[0].backoff.ready(time.Now()) || b.count() != 0 || r.logged() != "" {
		t.Errorf("the upstream is marked as failing, or another was tried %d times:\n%s", b.count(), r.logged())
	}
}

func TestMessagesAPICredentials(t *testing.T) {
	for name, tc := range map[string]struct {
		change         func(*Entry)
		header, absent string
		want           string
	}{
		"key":         {func(*Entry) {}, "X-Api-Key", "Authorization", "sk-test-aaaaaaaaaaaaaaaa"},
		"named key":   {func(e *Entry) { e.APIKey = "key-b/TWO" }, "X-Api-Key", "Authorization", "sk-test-bbbbbbbbbbbbbbbb"},
		"bearer":      {func(e *Entry) { e.APIKey, e.Bearer = "", "key-a" }, "Authorization", "X-Api-Key", "Bearer sk-test-aaaaaaaaaaaaaaaa"},
		"none at all": {func(e *Entry) { e.APIKey = NoKey }, "Authorization", "X-Api-Key", ""},
	} {
		m := &model{}
		e := plainEntry("a", m.serve(t))
		tc.change(&e)
		r := newRig(t, testSecrets, e)
		if s := r.send(call(testBody)); s.err != nil || s.body != wholeStream || m.last() != testBody || m.paths[0] != "/v1/messages?beta=true" {
			t.Errorf("%s: %v %s", name, s, m.last())
		}
		if m.header.Get(tc.header) != tc.want || m.header.Get(tc.absent) != "" || strings.Join(m.header.Values("Anthropic-Beta"), ",") != "one, interleaved-thinking-2025-05-14,,context-1m-2025-08-07" {
			t.Errorf("%s: %v", name, m.header)
		}
	}
	// A secret with several values needs a key.
	e := plainEntry("a", deadAddress(t))
	e.APIKey = "key-b"
	if err := e.Check(testSecrets.get); dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), "NAME/KEY") {
		t.Errorf("%v", err)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	v := upstreamtest.NewVertex(t, "p", "us-east5", &model{})
	r := newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, vertexEntry(v))
	for range 5 {
		if s := r.send(call(testBody)); s.err != nil || s.body != wholeStream {
			t.Fatalf("%v", s)
		}
	}
	if v.Seen().Protocol != "HTTP/2.0" || v.Seen().Connections != 1 {
		t.Errorf("%s, %d connections", v.Seen().Protocol, v.Seen().Connections)
	}
}

func TestOperatorCertificates(t *testing.T) {
	m := &model{}
	server := httptest.NewTLSServer(m)
	defer server.Close()
	e := plainEntry("a", server.URL)
	e.CAFile = filepath.Join(t.TempDir(), "none.pem")
	for _, content := range []string{"", "no certificate"} {
		if content != "" {
			if err := os.WriteFile(e.CAFile, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New([]Entry{e}, Options{Secret: testSecrets.get}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(dreamcore.HintOf(err), "openssl x509") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestOperatorProxy(t *testing.T) {
	b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, &model{})
	proxy := upstreamtest.NewProxy(t, b.URL)
	e := bedrockEntry(b)
	e.BaseURL = "https://example.com" // for which the server has a certificate too
	list, err := New([]Entry{e}, Options{Secret: awsSecrets.get, Hide: func(string) {}, Unhide: func(string) {}, Logger: testLogger(io.Discard), Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }})
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	r := &rig{List: list, t: t}
	if s := r.send(call(testBody)); s.err != nil || s.body != wholeStream {
		t.Fatalf("%v", s)
	}
	if got := proxy.Asked(); len(got) != 1 || got[0] != "example.com:443" {
		t.Errorf("the proxy was asked for %v", got)
	}
}
