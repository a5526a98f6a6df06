package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyKnownPartsOfRequestAreSent(t *testing.T) {
	type seen struct {
		Method, URI, Host, Body string
		Length                  int64
		Encoding                []string
		Header                  http.Header
	}
	got := make(chan seen, 1)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		got <- seen{req.Method, req.RequestURI, req.Host, string(b), req.ContentLength, req.TransferEncoding, req.Header}
		goodStream(w, req)
	})
	a := r.do(r.request(testBody, func(req *http.Request) {
		for name, v := range map[string]string{
			"Authorization": "Bearer " + r.grant.Token(), "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4",
			"X-Stainless-Os": "Linux", "X-Claude-Code-Session-Id": "s", "X-App": "cli", "Proxy-Authorization": "Basic eDp5",
			"Connection": "keep-alive, anthropic-beta", "Keep-Alive": "9", "Te": "trailers", "Accept-Encoding": "gzip, br",
			"Accept": "application/json", "Anthropic-Version": "2023-06-01", "Anthropic-Beta": strings.Repeat("beta-1,", 500),
			"User-Agent": "claude-cli/2", "Origin": "http://x", "X-Http-Method-Override": "GET", "Content-Type": "text/plain",
			"Anthropic-Dangerous-Direct-Browser-Access": "true", "Expect": "100-continue",
		} {
			req.Header.Set(name, v)
		}
		req.Host = "evil.example"
		req.ContentLength = -1 // chunked
		req.Trailer = http.Header{"X-Api-Key": nil}
	}))
	if a.status != 200 || a.body != wholeStream {
		t.Fatalf("answer %v", a)
	}
	g := <-got
	host := g.Host
	if host == "evil.example" || !strings.HasPrefix(host, "127.0.0.1:") {
		t.Errorf("host %q went out", host)
	}
	want := seen{"POST", "/v1/messages?beta=true", host, testBody, int64(len(testBody)), nil, http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"identity"}, "Anthropic-Version": {"2023-06-01"},
		"Anthropic-Beta": {strings.Repeat("beta-1,", 500)}, "User-Agent": {"claude-cli/2"}, "Content-Type": {"application/json"},
		"Content-Length": {fmt.Sprint(len(testBody))}, "X-Api-Key": {testKey},
	}}
	if d := cmp.Diff(want, g); d != "" {
		t.Errorf("what went out (-want +got):\n%s", d)
	}
}

func TestOnlyKnownAnswerHeadersAreForwarded(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		for _, name := range []string{"Set-Cookie", "Server", "Via", "Cf-Ray", "Anthropic-Ratelimit-Requests-Limit", "Anthropic-Organization-Id", "Alt-Svc", "Trailer"} {
			w.Header().Set(name, "X-Secret")
		}
		w.Header().Set("Request-Id", "req_1")
		w.Header().Set("X-Should-Retry", "true")
		w.WriteHeader(http.StatusEarlyHints) // an informational answer with all headers
		goodStream(w, req)
		w.Header().Set("X-Secret", "trailer")
	})
	a := r.post(testBody)
	a.header.Del("Date")
	want := http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}, "Request-Id": {"req_1"}, "X-Should-Retry": {"true"}}
	if d := cmp.Diff(want, a.header); d != "" || a.status != 200 {
		t.Errorf("status %d, header (-want +got):\n%s", a.status, d)
	}
}

func TestOnlyTwoKindsOfRequestsAreAllowed(t *testing.T) {
	var calls atomic.Int32
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		calls.Add(1)
		goodStream(w, req)
	})
	for _, tc := range []struct {
		method, target string
		extra          string
		status         int
	}{
		{"POST", "/v1/messages", "", 200},
		{"POST", "/v1/messages?beta=true", "", 200},
		{"POST", "/v1/messages/count_tokens?beta=true", "", 200},
		{"HEAD", "/", "", 200},
		{"GET", "/", "", 404},
		{"POST", "/", "", 404},
		{"GET", "/v1/messages", "", 405},
		{"PUT", "/v1/messages", "", 405},
		{"OPTIONS", "/v1/messages", "", 405},
		{"post", "/v1/messages", "", 405},
		{"OPTIONS", "*", "", 404},
		{"TRACE", "/v1/messages", "", 405},
		{"POST", "/v1/models", "", 404},
		{"POST", "/v1/files", "", 404},
		{"POST", "/v1/messages/batches", "", 404},
		{"POST", "//v1/messages", "", 404},
		{"POST", "/v1//messages", "", 404},
		{"POST", "/v1/messages/", "", 404},
		{"POST", "/v1/messages/../messages", "", 404},
		{"POST", "/v1/messages/../files", "", 404},
		{"POST", "/v1/./messages", "", 404},
		{"POST", "/v1%2fmessages", "", 404},
		{"POST", "/v1/%6dessages", "", 404},
		{"POST", "/v1/messages%2f..%2ffiles", "", 404},
		{"POST", "/v1/messages;x=1", "", 404},
		{"POST", "/v1/messages#x", "", 404},
		{"POST", "/V1/Messages", "", 404},
		{"POST", "/v1/messages?beta=false", "", 400},
		{"POST", "/v1/messages?beta=true&x=1", "", 400},
		{"POST", "/v1/messages?beta=true?", "", 400},
		{"POST", "http://model.invalid/v1/messages", "", 404},
		{"POST", "http://evil.example/v1/messages", "", 404},
		{"CONNECT", "api.example.com:443", "", 404},
		{"CONNECT", "/v1/messages", "", 405},
		{"POST", "/v1/messages", "Connection: Upgrade\r\nUpgrade: websocket\r\n", 400},
		{"POST", "/v1/messages", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n", 400},
		{"POST", "/v1/messages", "Content-Encoding: gzip\r\n", 415},
	} {
		calls.Store(0)
		got := r.raw(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: model.invalid\r\nx-api-key: %s\r\nContent-Type: application/json\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s",
			tc.method, tc.target, r.grant.Token(), tc.extra, len(testBody), testBody))
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", tc.status)) {
			t.Errorf("%s %s %q: got %q, want %d", tc.method, tc.target, tc.extra, truncate(got, 60), tc.status)
		}
		if want := tc.status == 200 && tc.method == "POST"; (calls.Load() == 1) != want {
			t.Errorf("%s %s: %d requests went out", tc.method, tc.target, calls.Load())
		}
	}
}

func TestSmuggledRequestIsNotSent(t *testing.T) {
	var uris []string
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		uris = append(uris, req.Method+" "+req.RequestURI+" "+string(b)) // requests arrive one after another
		if req.Header.Get("X-Api-Key") != testKey || len(req.Header["X-Api-Key"]) != 1 || req.Header.Get("Authorization") != "" || req.Header.Get("X-Evil") != "" {
			t.Errorf("header went out: %v", req.Header)
		}
		goodStream(w, req)
	})
	const small = `{"model":"m"}`
	key := "x-api-key: " + r.grant.Token() + "\r\n"
	hidden := "GET /v1/files HTTP/1.1\r\nHost: x\r\nX-Evil: 1\r\n\r\n"
	hiddenPost := "POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
	for name, text := range map[string]string{
		"length and chunks":       "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n" + small + "\r\n0\r\n\r\n" + hidden,
		"length hides a request":  "Content-Length: " + fmt.Sprint(len(small+hidden)) + "\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n" + small + "\r\n0\r\n\r\n" + hidden,
		"two lengths":             "Content-Length: 13\r\nContent-Length: 0\r\n\r\n" + small + hidden,
		"two equal lengths":       "Content-Length: 13\r\nContent-Length: 13\r\n\r\n" + small + hidden,
		"a list of lengths":       "Content-Length: 13, 0\r\n\r\n" + small,
		"a signed length":         "Content-Length: +13\r\n\r\n" + small + hidden,
		"a negative length":       "Content-Length: -1\r\n\r\n" + small,
		"a huge length":           "Content-Length: 99999999999999999999\r\n\r\n" + small,
		"odd coding":              "Transfer-Encoding: xchunked\r\n\r\nd\r\n" + small + "\r\n0\r\n\r\n",
		"two codings":             "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\nd\r\n" + small + "\r\n0\r\n\r\n",
		"coding with white space": "Transfer-Encoding : chunked\r\n\r\nd\r\n" + small + "\r\n0\r\n\r\n",
		"folded coding":           "Transfer-Encoding:\r\n chunked\r\n\r\nd\r\n" + small + "\r\n0\r\n\r\n" + hidden,
		"folded header":           "Accept: a\r\n X-Evil: 1\r\nContent-Length: 13\r\n\r\n" + small,
		"bare CR in header":       "Accept: a\rX-Evil: 1\r\nContent-Length: 13\r\n\r\n" + small,
		"NUL in header":           "Accept: a\x00b\r\nContent-Length: 13\r\n\r\n" + small,
		"bare LF ends":            "Accept: a\nX-Evil: 1\nContent-Length: 13\n\n" + small + hidden,
		"chunk extension":         "Transfer-Encoding: chunked\r\n\r\nd;x=\"\r\n\"\r\n" + small + "\r\n0\r\n\r\n" + hidden,
		"chunk too short":         "Transfer-Encoding: chunked\r\n\r\n5\r\n" + small + "\r\n0\r\n\r\n" + hidden,
		"trailer":                 "Transfer-Encoding: chunked\r\n\r\nd\r\n" + small + "\r\n0\r\nX-Evil: 1\r\nAuthorization: Bearer x\r\n\r\n" + hidden,
		"request after request":   "Content-Length: 13\r\n\r\n" + small + hiddenPost,
		"header hides a token":    "Authorization: Bearer other\r\nContent-Length: 13\r\n\r\n" + small,
		"two tokens":              "x-api-key: other\r\nContent-Length: 13\r\n\r\n" + small,
		"basic authorization":     "Authorization: Basic eDp5\r\nContent-Length: 13\r\n\r\n" + small,
		"key header with a space": "x-api-key : k\r\nContent-Length: 13\r\n\r\n" + small,
	} {
		uris = nil
		// The last request closes the connection, so that raw returns.
		last := "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		got := r.raw("POST /v1/messages HTTP/1.1\r\nHost: model.invalid\r\n" + key + text + last)
		if len(uris) > 1 || len(uris) == 1 && uris[0] != "POST /v1/messages "+small {
			t.Errorf("%s: went out: %q", name, uris)
		}
		if len(uris) == 0 && !strings.HasPrefix(got, "HTTP/1.1 4") && !strings.HasPrefix(got, "HTTP/1.1 501") {
			t.Errorf("%s: neither sent nor refused: %q", name, got)
		}
	}
}

func TestWrongTokenIsRefused(t *testing.T) {
	var calls atomic.Int32
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		calls.Add(1)
		goodStream(w, req)
	})
	other := r.listen()
	otherGrant := other.Grant(GrantOptions{Job: "job-2"})
	expired := r.socket.Grant(GrantOptions{Expires: time.Now().Add(-time.Second)})
	defer expired.Revoke()
	revoked := r.socket.Grant(GrantOptions{})
	revoked.Revoke()
	revoked.Revoke()
	token := r.grant.Token()
	if len(token) != len("sk-dreamcore-")+64 || !strings.HasPrefix(token, "sk-dreamcore-") || token == otherGrant.Token() {
		t.Fatalf("token %q", token)
	}
	for name, h := range map[string]http.Header{
		"none":                  {},
		"empty":                 {"X-Api-Key": {""}},
		"empty bearer":          {"Authorization": {"Bearer "}},
		"wrong":                 {"X-Api-Key": {"sk-dreamcore-" + strings.Repeat("0", 64)}},
		"prefix":                {"X-Api-Key": {token[:len(token)-1]}},
		"longer":                {"X-Api-Key": {token + "0"}},
		"upper case":            {"X-Api-Key": {strings.ToUpper(token)}},
		"the real key":          {"X-Api-Key": {testKey}},
		"of another socket":     {"X-Api-Key": {otherGrant.Token()}},
		"expired":               {"X-Api-Key": {expired.Token()}},
		"revoked":               {"X-Api-Key": {revoked.Token()}},
		"right and wrong":       {"X-Api-Key": {token, "x"}},
		"right and wrong in ..": {"X-Api-Key": {token}, "Authorization": {"Bearer x"}},
		"no bearer":             {"Authorization": {token}},
		"proxy authorization":   {"Proxy-Authorization": {"Bearer " + token}},
		"cookie":                {"Cookie": {"x-api-key=" + token}},
	} {
		a := r.do(r.request(testBody, func(req *http.Request) { req.Header = h }))
		if a.status != 401 {
			t.Errorf("%s: %v", name, a)
			continue
		}
		wantRefusal(t, a, 401, "authentication_error")
	}
	if calls.Load() != 0 {
		t.Errorf("%d requests went out", calls.Load())
	}
	for name, h := range map[string]http.Header{
		"key": {"X-Api-Key": {token}}, "bearer": {"Authorization": {"Bearer " + token}}, "both": {"X-Api-Key": {token}, "Authorization": {"Bearer " + token}},
	} {
		if a := r.do(r.request(testBody, func(req *http.Request) { req.Header = h })); a.status != 200 {
			t.Errorf("right token as %s: %v", name, a)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	begun := make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		send(w, eventStart)
		close(begun)
		<-req.Context().Done()
	})
	gr := r.socket.Grant(GrantOptions{Expires: time.Now().Add(300 * time.Millisecond)})
	defer gr.Revoke()
	a := r.do(r.request(testBody, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) }))
	within(t, "start", begun)
	if a.err == nil {
		t.Errorf("the running answer was not cancelled: %v", a)
	}
	a = r.do(r.request(testBody, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) }))
	wantRefusal(t, a, 401, "authentication_error")
	if f := gr.Failure(); f != "" {
		t.Errorf("failure %q: the model did nothing wrong", f)
	}
}

func TestInvalidBodyIsRefused(t *testing.T) {
	var calls atomic.Int32
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		calls.Add(1)
		goodStream(w, req)
	}, func(c *Config) { c.MaxBody = 200_000 })
	for name, tc := range map[string]struct {
		body   string
		status int
		kind   string
	}{
		"nothing":        {"", 400, "invalid_request_error"},
		"no JSON":        {"hello", 400, "invalid_request_error"},
		"array":          {"[]", 400, "invalid_request_error"},
		"cut":            {testBody[:20], 400, "invalid_request_error"},
		"two objects":    {testBody + testBody, 400, "invalid_request_error"},
		"model twice":    {`{"model":"m-1","model":"big"}`, 400, "invalid_request_error"},
		"model a number": {`{"model":1}`, 400, "invalid_request_error"},
		"too big":        {`{"model":"m-1","x":"` + strings.Repeat("x", 200_000) + `"}`, 413, "request_too_large"},
	} {
		wantRefusal(t, r.post(tc.body), tc.status, tc.kind)
		_ = name
	}
	// The length is not known in advance.
	wantRefusal(t, r.do(r.request(strings.Repeat("[", 300_000), func(req *http.Request) { req.ContentLength = -1 })), 413, "request_too_large")
	if calls.Load() != 0 {
		t.Errorf("%d requests went out", calls.Load())
	}
}

func TestClientThatSendsCompleteBodySeesTheRefusal(t *testing.T) {
	r := newRig(t, goodStream, func(c *Config) { c.MaxBody = 1 << 20 })
	c, err := dialUnix(r.socket.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := r.request(`{"x":"` + strings.Repeat("x", 1<<20+1<<19)).Write(c); err != nil {
		t.Fatalf("write: %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 413 {
		t.Errorf("%v %v", resp, err)
	}
}

func TestTooLargeHeaderIsRefused(t *testing.T) {
	r := newRig(t, goodStream)
	got := r.raw("POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + r.grant.Token() + "\r\nAnthropic-Beta: " + strings.Repeat("x", 40<<10) + "\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 431 ") {
		t.Errorf("got %q", truncate(got, 80))
	}
}

func TestIncompleteBodyIsRefused(t *testing.T) {
	r := newRig(t, goodStream, func(c *Config) { c.BodyReadLimit = 50 * time.Millisecond })
	got := r.raw("POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: " + r.grant.Token() + "\r\nContent-Length: 100\r\n\r\n{")
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "X-Should-Retry: false") {
		t.Errorf("got %q", got)
	}
	got = r.raw("POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: wrong\r\nContent-Length: 100\r\n\r\n{")
	if !strings.HasPrefix(got, "HTTP/1.1 401 ") {
		t.Errorf("got %q", got)
	}
}

func TestConcurrentRequestsOfOneGrantAreBounded(t *testing.T) {
	begun, release := make(chan struct{}, 2), make(chan struct{})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		beginStream(w)
		send(w, eventStart)
		begun <- struct{}{}
		<-release
		send(w, eventStop)
	}, func(c *Config) { c.MaxConcurrent = 2 })
	answers := make(chan answer, 2)
	for range 2 {
		go func() { answers <- r.post(testBody) }()
		<-begun
	}
	a := r.post(testBody)
	if a.status != 429 || a.header.Get("X-Should-Retry") != "true" || a.header.Get("Retry-After") != "1" {
		t.Errorf("third request: %v", a)
	}
	if f := r.grant.Failure(); f != "" {
		t.Errorf("failure %q: the model did nothing wrong", f)
	}
	close(release)
	for range 2 {
		if a := <-answers; a.status != 200 || a.err != nil {
			t.Errorf("one of the two: %v", a)
		}
	}
}

func TestMemoryForBodiesOfOneGrantIsBounded(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(goodStream))
	defer s.Close()
	r := newRigAt(t, s.URL, func(c *Config) { c.MaxBody = 100_000; c.MaxConcurrent = 5 })
	if !r.grant.reserve(r.grant.maxReserved() - bodyStep + 1) {
		t.Fatal("no room in a fresh grant")
	}
	a := r.post(testBody)
	if a.status != 429 || a.header.Get("X-Should-Retry") != "true" {
		t.Errorf("with no room: %v", a)
	}
	r.grant.release(r.grant.maxReserved() - bodyStep + 1)
	for range 20 { // the memory of a request is released
		if a := r.post(`{"x":"` + strings.Repeat("x", 90_000) + `"}`); a.status != 200 {
			t.Fatalf("with room: %v", a)
		}
	}
}

// The bodies of all grants together are bounded, but a grant with small ones is
// not affected.
func TestMemoryForBodiesOfAllGrantsIsBounded(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(goodStream))
	defer s.Close()
	r := newRigAt(t, s.URL, func(c *Config) { c.MaxBodies = 1 << 20 })
	other := r.socket.Grant(GrantOptions{Job: "other"})
	defer other.Revoke()
	if !other.reserve(grantAllowance + 1<<20) {
		t.Fatal("no room in a fresh gateway")
	}
	large := `{"x":"` + strings.Repeat("x", grantAllowance+bodyStep) + `"}`
	if a := r.post(large); a.status != 429 || a.header.Get("X-Should-Retry") != "true" {
		t.Errorf("a large body with no room: %v", a)
	}
	if a := r.post(`{"x":"` + strings.Repeat("x", grantAllowance/2) + `"}`); a.status != 200 {
		t.Errorf("a small body with no room: %v", a)
	}
	other.release(grantAllowance + 1<<20)
	for range 3 {
		if a := r.post(large); a.status != 200 {
			t.Errorf("a large body with room: %v", a)
		}
	}
}

func TestKeepAliveServesManyRequestsOnOneConnection(t *testing.T) {
	r := newRig(t, goodStream)
	c, err := dialUnix(r.socket.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	br := bufio.NewReader(c)
	for range 3 {
		if err := r.request(testBody).Write(c); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != wholeStream || slices.Contains(resp.Header["Connection"], "close") {
			t.Fatalf("%q %v %v", b, err, resp.Header)
		}
	}
}
