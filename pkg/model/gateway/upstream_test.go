package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func goroutines() int { return runtime.NumGoroutine() }

func TestCheckBaseURL(t *testing.T) {
	key := func() (string, error) { return testKey, nil }
	for raw, want := range map[string]string{
		"https://api.example.com":         "https://api.example.com",
		"https://api.example.com/":        "https://api.example.com",
		"https://api.example.com:8443/p/": "https://api.example.com:8443/p",
		"http://127.0.0.1:9":              "http://127.0.0.1:9",
		"http://[::1]:9/x":                "http://[::1]:9/x",
		"http://localhost:9":              "http://localhost:9",
		"http://10.1.2.3":                 "http://10.1.2.3",
		"http://192.168.0.9:80":           "http://192.168.0.9:80",
		"http://api.example.com":          "",
		"http://8.8.8.8":                  "",
		"http://localhost.example.com":    "",
		"http://127.0.0.1.example.com":    "",
		"ftp://127.0.0.1":                 "",
		"unix:///x":                       "",
		"":                                "",
		"api.example.com":                 "",
		"https://":                        "",
		"https://:443":                    "",
		"https://u:TAILTAIL@h":            "",
		"https://h/?x=1":                  "",
		"https://h/#x":                    "",
		"https://h/v1":                    "",
		"https://h/p/v1/":                 "",
		"https://h\x00":                   "",
	} {
		u, err := NewAPIUpstream(APIConfig{BaseURL: raw, Key: key})
		switch {
		case want != "" && (err != nil || u.base != want):
			t.Errorf("%q: %v", raw, err)
		case want == "" && (dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" || strings.Contains(err.Error(), "TAILTAIL")):
			t.Errorf("%q: error %v", raw, err)
		}
	}
	if _, err := NewAPIUpstream(APIConfig{BaseURL: "http://litellm.internal", AllowHTTP: true, Key: key}); err != nil {
		t.Errorf("allowed http: %v", err)
	}
	if _, err := NewAPIUpstream(APIConfig{BaseURL: "https://h"}); err == nil {
		t.Error("no key function was taken")
	}
}

func TestAPIOverHTTP2AndWithPathPrefix(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ProtoMajor != 2 || req.RequestURI != "/prefix/v1/messages?beta=true" {
			t.Errorf("%s %s", req.Proto, req.RequestURI)
		}
		goodStream(w, req)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	api, err := NewAPIUpstream(APIConfig{BaseURL: server.URL + "/prefix/", Key: func() (string, error) { return testKey, nil }, TLS: &tls.Config{RootCAs: pool}})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	r := newRig(t, goodStream, func(c *Config) { c.Upstream = api })
	if a := r.post(testBody); a.body != wholeStream {
		t.Errorf("%v", a)
	}

	untrusting, err := NewAPIUpstream(APIConfig{BaseURL: server.URL, Key: func() (string, error) { return testKey, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer untrusting.Close()
	r.gw.SetUpstream(untrusting)
	if a := r.post(testBody); a.status != 502 {
		t.Errorf("an unknown certificate was taken: %v", a)
	}
}

func TestAlarmNamesTheSecretToReplace(t *testing.T) {
	server := httptest.NewServer(status(401))
	defer server.Close()
	for name, key := range map[string]func() (string, error){
		"refused": func() (string, error) { return testKey, nil },
		"missing": func() (string, error) { return "", os.ErrNotExist },
	} {
		api, err := NewAPIUpstream(APIConfig{Name: "mine", BaseURL: server.URL, Key: key, Bearer: true, Repair: "replace the secret mine"})
		if err != nil {
			t.Fatal(err)
		}
		defer api.Close()
		r := newRig(t, goodStream, func(c *Config) { c.Upstream = api })
		wantRefusal(t, r.post(testBody), 401, "authentication_error")
		if log := r.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "replace the secret mine") || !strings.Contains(log, "mine") {
			t.Errorf("%s: %s", name, log)
		}
	}
}

func TestAPIThroughProxy(t *testing.T) {
	asked := make(chan string, 1)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked <- req.RequestURI
		goodStream(w, req)
	}))
	defer proxy.Close()
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	api, err := NewAPIUpstream(APIConfig{BaseURL: "http://10.255.255.1", Key: func() (string, error) { return testKey, nil }, Proxy: http.ProxyURL(address)})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	r := newRig(t, goodStream, func(c *Config) { c.Upstream = api })
	if a := r.post(testBody); a.status != 200 {
		t.Fatalf("%v", a)
	}
	if got := <-asked; got != "http://10.255.255.1/v1/messages?beta=true" {
		t.Errorf("asked the proxy for %q", got)
	}
}

func TestRedact(t *testing.T) {
	for _, tc := range []struct{ key, in, want string }{
		{testKey, "no secret", "no secret"},
		{testKey, testKey, "[redacted]"},
		{testKey, "x " + testKey + " y " + testKey, "x [redacted] y [redacted]"},
		{testKey, "…TAILTAIL.", "…[redacted]."},
		{testKey, "…" + testKey[20:] + "!", "…[redacted]!"},
		{testKey, "TAILTAI", "TAILTAI"},
		{testKey, testKey + testKey, "[redacted][redacted]"},
		{"short", "a short one", "a [redacted] one"},
		{"aaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaaaaa", "[redacted][redacted][redacted]"},
	} {
		if got := redact(tc.in, tc.key); got != tc.want {
			t.Errorf("redact(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestInProcessModelReceivesTheCall(t *testing.T) {
	r := newRig(t, nil, func(c *Config) {
		c.Upstream = HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			b, _ := io.ReadAll(req.Body)
			if req.RequestURI != "/v1/messages?beta=true" || req.URL.Path != "/v1/messages" || string(b) != testBody || req.ContentLength != int64(len(testBody)) || req.Header.Get("X-Api-Key") != "" {
				t.Errorf("%s %s %q", req.RequestURI, req.URL, b)
			}
			goodStream(w, req)
			w.WriteHeader(500) // too late
		}))
	})
	if a := r.post(testBody); a.body != wholeStream || a.status != 200 {
		t.Errorf("%v", a)
	}
	wantFailure(t, r, "")
	if !strings.Contains(r.log.String(), "upstream=script model=m-1 status=200") {
		t.Errorf("the log does not tell who answered:\n%s", r.log)
	}
}

func TestInProcessModelFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		status  int
	}{
		"panic":        {func(http.ResponseWriter, *http.Request) { panic("at the " + testKey) }, 502},
		"abort":        {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502},
		"late panic":   {func(w http.ResponseWriter, _ *http.Request) { beginStream(w); send(w, eventStart); panic("x") }, 200},
		"nothing":      {func(http.ResponseWriter, *http.Request) {}, 529},
		"plain text":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, 502},
		"status alone": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, 503},
	} {
		r := newRig(t, nil, func(c *Config) { c.Upstream = HandlerUpstream(tc.handler) })
		a := r.post(testBody)
		if a.status != tc.status || tc.status == 200 && a.err == nil {
			t.Errorf("%s: %v", name, a)
		}
		want := dreamcore.FailNetwork
		if tc.status == 529 || tc.status == 503 {
			want = dreamcore.FailRateLimit
		}
		wantFailure(t, r, want)
	}
}

func TestCancelledInProcessAnswerIsNotComplete(t *testing.T) {
	upstream := HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		send(w, eventStart)
		<-req.Context().Done() // and returns as if it were complete
	}))
	for range 300 { // two goroutines notice the end of the context, in any order
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := upstream.Send(ctx, Call{Path: messagesPath, Header: http.Header{}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, len(eventStart))); err != nil {
			t.Fatal(err)
		}
		cancel()
		if n, err := resp.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Fatalf("read %d, %v; want an error", n, err)
		}
		resp.Body.Close()
	}
}

func TestExchangeWaitsForInProcessModel(t *testing.T) {
	var ended atomic.Bool
	r := newRig(t, nil, func(c *Config) {
		c.Upstream = HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.WriteHeader(302) // the body of such an answer is ignored
			<-req.Context().Done()
			time.Sleep(50 * time.Millisecond)
			ended.Store(true)
		}))
	})
	if a := r.post(testBody); a.status != 502 {
		t.Errorf("%v", a)
	}
	r.grant.Revoke()
	if !ended.Load() {
		t.Error("the handler still runs")
	}
}
