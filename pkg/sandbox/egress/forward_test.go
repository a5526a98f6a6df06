package egress

import (
	"bytes"

	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestPlainRequestIsRebuilt(t *testing.T) {
	type seen struct {
		Method, URI, Host string
		Header            http.Header
		Body              string
	}
	got := make(chan seen, 1)
	port := plain(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r.Method, r.RequestURI, r.Host, r.Header, string(b)}
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("X-Stays", "2")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, "made")
	}))
	r := newRig(t, newCA(t), options{private: []string{at("plain.example.com", port)}})
	r.names.set("plain.example.com", "127.0.0.1")
	s := r.sock.Begin("j", "s")
	defer s.End()
	c := r.dial()
	defer c.Close()
	_, _ = fmt.Fprintf(c, "POST http://plain.example.com:%d/a%%2fb?q=1&q=%%20 HTTP/1.1\r\nHost: evil.example.com\r\nContent-Length: 4\r\nConnection: X-Mine\r\nX-Mine: 1\r\n"+
		"Proxy-Authorization: Basic x\r\nUpgrade: websocket\r\nTE: trailers\r\nX-Forwarded-For: 1.1.1.1\r\nX-Own: y\r\n\r\nbody", port)
	b, err := io.ReadAll(io.LimitReader(c, 12))
	if err != nil || string(b) != "HTTP/1.1 201" {
		t.Fatalf("%q %v", b, err)
	}
	in := <-got
	if in.Method != "POST" || in.URI != "/a%2fb?q=1&q=%20" || in.Host != at("plain.example.com", port) || in.Body != "body" || in.Header.Get("X-Own") != "y" {
		t.Errorf("%+v", in)
	}
	for _, name := range []string{"X-Mine", "Proxy-Authorization", "Upgrade", "Te", "X-Forwarded-For", "Connection", "User-Agent"} {
		if v, ok := in.Header[name]; ok {
			t.Errorf("%s: %q was forwarded", name, v)
		}
	}
	if a := r.nth(1); a.Method != "POST" || a.Status != 201 || a.Up != 4 || a.Down != 4 || a.Verdict != Allowed || a.Address.String() != at("127.0.0.1", port) || a.Injected {
		t.Errorf("%+v", a)
	}
	for _, smuggled := range []string{
		"POST http://plain.example.com:%d/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
		"POST http://plain.example.com:%d/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"GET http://plain.example.com:%d/ HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
		"GET http://plain.example.com:%d/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	} {
		if status, _ := r.ask(fmt.Sprintf(smuggled, port)); status < 400 {
			t.Errorf("%q: %d", smuggled, status)
		}
	}
	if len(got) != 0 {
		t.Error("a malformed request was forwarded")
	}
}

// echo is an upstream that repeats the request's secret in every possible way.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	v := r.Header.Get("Authorization")
	w.Header().Set("Link", "<"+v+">")
	w.WriteHeader(http.StatusEarlyHints)
	w.Header().Set("X-Echo", v)
	w.Header().Set("Trailer", "X-Last")
	raw, _ := json.Marshal(map[string]any{"auth": r.Header.Values("Authorization"), "other": r.Header.Values("X_authorization"), "path": r.RequestURI, "encoding": r.Header.Get("Accept-Encoding"), "range": r.Header.Get("Range"), "proto": r.Proto})
	_, _ = w.Write(raw[:len(raw)/3])
	w.(http.Flusher).Flush()
	_, _ = w.Write(raw[len(raw)/3:])
	w.Header().Set("X-Last", v)
})

func TestSecretIsAddedAndNeverReturned(t *testing.T) {
	ca := newCA(t)
	given := make(chan string, 10)
	port := ca.upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given <- r.Header.Get("Authorization")
		echo(w, r)
	}), apiHost)
	host := at(apiHost, port)
	r := newRig(t, ca, options{private: []string{host}, inject: []string{host + "=openai:authorization:Bearer"}})
	r.names.set(apiHost, "127.0.0.1")
	s := r.sock.Begin("j", "s")
	defer s.End()
	c := r.client(r.inner())
	for _, url := range []string{"https://" + host + "/v1?x=1", "http://" + host + "/v1?x=1"} {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["authorization"] = []string{"mine", "and mine"}
		req.Header.Set("Range", "bytes=0-9")
		var hints string
		resp, err := c.Do(req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(_ int, h textproto.MIMEHeader) error { hints += fmt.Sprint(h); return nil },
		})))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(err, resp.StatusCode, string(b))
		}
		if got := <-given; got != "Bearer "+theSecret {
			t.Errorf("the host received %q", got)
		}
		all := fmt.Sprint(resp.Header, resp.Trailer, hints, string(b))
		if strings.Contains(strings.ToLower(all), "canary") {
			t.Errorf("%s: the secret was returned: %s", url, all)
		}
		if !strings.Contains(string(b), `"auth":["Bearer ***`) || !strings.Contains(string(b), `"encoding":"identity"`) || !strings.Contains(string(b), `"range":""`) || !strings.Contains(string(b), "/v1?x=1") || !strings.Contains(string(b), "HTTP/2.0") {
			t.Errorf("%s: %s", url, b)
		}
	}
	s.End() // all attempts have been observed
	injected := 0
	for _, a := range r.seen() {
		if strings.Contains(fmt.Sprint(a), "canary") {
			t.Errorf("%+v", a)
		}
		if a.Injected {
			injected++
			if a.Host != apiHost || int(a.Port) != port || a.Status != 200 || a.Verdict != Allowed || a.Down == 0 || !a.Address.IsValid() {
				t.Errorf("%+v", a)
			}
		}
	}
	if injected != 2 {
		t.Errorf("%+v", r.seen())
	}
}

func TestRequestsInAnInterceptedTunnelAreChecked(t *testing.T) {
	ca := newCA(t)
	port := ca.upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/zip" {
			w.Header().Set("Content-Encoding", "gzip")
		}
		_, _ = io.WriteString(w, "hello")
	}), apiHost, "other.example.com")
	host := at(apiHost, port)
	r := newRig(t, ca, options{private: []string{host}, inject: []string{host + "=openai:X-Api-Key"}})
	r.names.set(apiHost, "127.0.0.1")
	s := r.sock.Begin("j", "s")
	defer s.End()
	c := r.client(r.inner())
	do := func(method, path, host string) (int, string) {
		req, err := http.NewRequest(method, "https://"+at(apiHost, port)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := c.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	for _, test := range []struct {
		method, path, host string
		status             int
	}{
		{"GET", "/", "", 200}, {"GET", "/", "other.example.com", 421}, {"GET", "/", apiHost, 200}, {"GET", "/", at(apiHost, port+1), 421},
		{"TRACE", "/", "", 405}, {"CONNECT", "/", "", 405}, {"GET", "/zip", "", 502}, {"POST", "/", "", 200},
	} {
		if status, body := do(test.method, test.path, test.host); status != test.status {
			t.Errorf("%+v: %d %s", test, status, body)
		}
	}
	// A sandbox that does not trust the proxy ends the handshake, which is observed.
	s.End() // all earlier attempts have been observed
	n := len(r.seen())
	defer r.sock.Begin("j", "s").End()
	if _, err := r.client(ca.pool).Get("https://" + host); err == nil {
		t.Error("the sandbox saw the real certificate")
	}
	if a := r.nth(n + 1); a.Verdict != Failed || !strings.Contains(a.Reason, "certificate") {
		t.Errorf("%+v", a)
	}
}

func TestRealHostIsVerified(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	for name, port := range map[string]int{
		"another authority": other.upstream(t, hello200, apiHost),
		"another name":      ca.upstream(t, hello200, "other.example.com"),
	} {
		host := at(apiHost, port)
		r := newRig(t, ca, options{private: []string{host}, inject: []string{host + "=openai:X-Api-Key"}})
		r.names.set(apiHost, "127.0.0.1")
		s := r.sock.Begin("j", "s")
		if status, body := get(t, r.client(r.inner()), "https://"+host+"/"); status != 502 || strings.Contains(body, "hello") {
			t.Errorf("%s: %d %s", name, status, body)
		}
		s.End()
	}
}

func TestAuthorityIsValidForItsHostsOnly(t *testing.T) {
	for _, hosts := range [][]Target{{{apiHost, 443}}, {{"10.1.2.3", 443}}, {{apiHost, 443}, {"fd00::1", 8443}}} {
		var injections []Injection
		for _, h := range hosts {
			injections = append(injections, Injection{Target: h})
		}
		a, err := newAuthority(injections, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(a.pem)
		verify := func(host string) error {
			leaf, err := a.leaf(Target{host, 443})
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(leaf.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			_, err = cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: host})
			return err
		}
		for _, h := range hosts {
			if err := verify(h.Host); err != nil {
				t.Errorf("%v: %v", h, err)
			}
		}
		for _, host := range []string{"example.com", "evil.com", "1.1.1.1", "2606:4700::1"} {
			if err := verify(host); err == nil {
				t.Errorf("%v: valid for %s", hosts, host)
			}
		}
	}
}

func TestAuthorityIsReplacedInTime(t *testing.T) {
	ca := newCA(t)
	host := "api.example.com:443"
	r := newRig(t, ca, options{allow: []string{host}, inject: []string{host + "=a:B"}, config: func(c *Config) { c.CALife = 4 * time.Second }})
	first := r.sock.authority
	same, err := r.proxy.Listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // past half of the lifetime; certificates have whole seconds
	later, err := r.proxy.Listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if same.authority != first || later.authority == first || r.sock.authority != first {
		t.Error("authorities")
	}
}

func TestInvalidSecretsAreRefused(t *testing.T) {
	policy, err := ParsePolicy([]string{apiHost}, nil, []string{apiHost + "=openai:X-Api-Key"})
	if err != nil {
		t.Fatal(err)
	}
	missing := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "no", Hint: "make it"}
	for name, test := range map[string]struct {
		value string
		err   error
	}{"missing": {"", missing}, "short": {"1234567", nil}, "two lines": {"12345678\n12345678", nil}, "with space": {" 12345678", nil}, "control": {"1234\x005678", nil}} {
		_, err := New(Config{Policy: policy, Secret: func(Injection) (string, error) { return test.value, test.err }})
		if dreamcore.CodeOf(err) != dreamcore.CodeSetup || dreamcore.HintOf(err) == "" || test.value != "" && strings.Contains(err.Error(), test.value) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(Config{Policy: policy}); err == nil {
		t.Error("New succeeded without secrets")
	}
}

func TestSecretIsReadForEachRequest(t *testing.T) {
	ca := newCA(t)
	given := make(chan string, 1)
	port := ca.upstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { given <- r.Header.Get("X-Api-Key") }), apiHost)
	host := at(apiHost, port)
	values := make(chan string, 4)
	values <- theSecret // at the start
	r := newRig(t, ca, options{private: []string{host}, inject: []string{host + "=a:X-Api-Key"}, config: func(c *Config) {
		c.Secret = func(Injection) (string, error) {
			select {
			case v := <-values:
				return v, nil
			default:
				return "", errors.New("gone")
			}
		}
	}})
	r.names.set(apiHost, "127.0.0.1")
	defer r.sock.Begin("j", "s").End()
	for _, v := range []string{"the-first-value", "the-second-value\n"} {
		values <- v
		if status, _ := get(t, r.client(r.inner()), "http://"+host+"/"); status != 200 || <-given != strings.TrimSpace(v) {
			t.Errorf("%s: %d", v, status)
		}
	}
	if status, body := get(t, r.client(r.inner()), "http://"+host+"/"); status != 502 || strings.Contains(body, "gone") {
		t.Error(status, body)
	}
}

func TestRedactor(t *testing.T) {
	c := credential{header: "A", value: theSecret, forms: formsOf(theSecret)}
	long := strings.Repeat("x", 70000)
	for _, text := range []string{
		"", "sk-", "nothing", theSecret, "a" + theSecret + "b" + theSecret, theSecret[:len(theSecret)-1], "sk-canar" + theSecret, long + theSecret + long, "sk-canary%2F0123456789%2Babc end",
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "data and error": iotest.DataErrReader} {
			ended := 0
			r := c.redact(io.NopCloser(wrap(strings.NewReader(text))), func() { ended++ })
			got, err := io.ReadAll(r)
			if err != nil || len(got) != len(text) || ended != 1 || bytes.Contains(got, []byte(theSecret)) || bytes.Contains(got, []byte("%2F0123456789%2Babc")) {
				t.Errorf("%s of %.60q: %.60q %v, %d ends", name, text, got, err, ended)
			}
			if !strings.Contains(text, "abc") && string(got) != text {
				t.Errorf("%s of %.60q: %.60q", name, text, got)
			}
		}
	}
	h := http.Header{"A": {"x " + theSecret}, "Sk-Canary": {"1"}}
	credential{forms: formsOf("sk-canary")}.scrub(h)
	if c.scrub(h); len(h) != 1 || strings.Contains(fmt.Sprint(h), "canary") {
		t.Errorf("%v", h)
	}
	// Available data is returned at once, and a cut stream reveals no part of a value.
	pr, pw := io.Pipe()
	r := c.redact(pr, func() {})
	go func() { _, _ = io.WriteString(pw, "event\nsk-cana"); _ = pw.CloseWithError(io.ErrUnexpectedEOF) }()
	got, err := io.ReadAll(r)
	if string(got) != "event\n" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q %v", got, err)
	}
}

func TestEnvironmentAndFiles(t *testing.T) {
	ca := newCA(t)
	file := t.TempDir() + "/roots.pem"
	if err := os.WriteFile(file, []byte("-----BEGIN CERTIFICATE-----\n"+base64.StdEncoding.EncodeToString(ca.cert.Raw)+"\n-----END CERTIFICATE-----"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, ca, options{allow: []string{apiHost}, inject: []string{apiHost + "=a:X-Api-Key"}, config: func(c *Config) { c.CAFile = file }})
	env := strings.Join(r.sock.Environment("/run/x"), "\n")
	for _, want := range []string{"HTTPS_PROXY=http://127.0.0.1:3128", "no_proxy=localhost,", "SSL_CERT_FILE=/run/x/" + bundleName, "NODE_EXTRA_CA_CERTS=/run/x/" + bundleName} {
		if !strings.Contains(env, want) {
			t.Errorf("missing %s in\n%s", want, env)
		}
	}
	raw, err := os.ReadFile(r.dir + "/" + bundleName)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) || bytes.Contains(raw, []byte("PRIVATE")) {
		t.Errorf("%s", raw)
	}
	for _, cert := range []*x509.Certificate{ca.cert, r.sock.authority.cert} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool}); err != nil {
			t.Error(err)
		}
	}
	if err := r.sock.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(r.dir); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
	if env := newRig(t, ca, options{allow: []string{apiHost}}).sock.Environment("/run/x"); strings.Contains(strings.Join(env, "\n"), "CERT") {
		t.Error(env)
	}
	if _, err := New(Config{CAFile: "/nowhere"}); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Error(err)
	}
	if FindBundle("/some") != "/some" {
		t.Error("SSL_CERT_FILE is ignored")
	}
}
