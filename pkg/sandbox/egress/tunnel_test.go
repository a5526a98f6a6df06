package egress

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/address"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

const apiHost = "api.example.com"

func TestTunnelReachesAnAllowedHost(t *testing.T) {
	ca := newCA(t)
	port := ca.upstream(t, hello200, apiHost)
	r := newRig(t, ca, options{private: []string{at(apiHost, port)}})
	r.names.set(apiHost, "127.0.0.1")
	s := r.sock.Begin("job-1", "s-1")
	c := r.client(ca.pool)
	if code, body := get(t, c, "https://"+at(apiHost, port)+"/"); code != 200 || body != "hello from "+at(apiHost, port) {
		t.Fatal(code, body)
	}
	s.End()
	a := r.nth(1)
	if a.Job != "job-1" || a.Sandbox != "s-1" || a.Method != "CONNECT" || a.Host != apiHost || int(a.Port) != port || a.Address.String() != at("127.0.0.1", port) ||
		a.Up < 100 || a.Down < 500 || a.Duration <= 0 || a.Time.IsZero() || a.Injected {
		t.Errorf("%+v", a)
	}
}

func TestOtherTargetsAreRefused(t *testing.T) {
	ca := newCA(t)
	port := ca.upstream(t, hello200, apiHost)
	r := newRig(t, ca, options{
		allow:   []string{at(apiHost, port), "*.wild.example.com", "mixed.example.com", "plain.example.com:80"},
		private: []string{"localhost:1"},
	})
	defer r.sock.Begin("j", "s").End()
	for name, addrs := range map[string][]string{
		apiHost: {"127.0.0.1"}, "a.wild.example.com": {"169.254.169.254"}, "b.wild.example.com": {"::ffff:10.0.0.1"}, "c.wild.example.com": {"64:ff9b::a9fe:a9fe"},
		"d.wild.example.com": {}, "mixed.example.com": {"10.0.0.1", "fd00::1", "::1", "0.0.0.0"}, "plain.example.com": {"192.168.0.1"},
	} {
		r.names.set(name, addrs...)
	}
	for raw, want := range map[string]struct {
		status int
		reason string
	}{
		connect("evil.example.com:443"):   {403, "not among"},
		connect(at(apiHost, port+1)):      {403, "not among"},
		connect("127.0.0.1:22"):           {403, "not among"},
		connect("[::1]:22"):               {403, "not among"},
		connect("169.254.169.254:80"):     {403, "not among"},
		connect(at(apiHost, port)):        {403, address.Loopback},
		connect("a.wild.example.com:443"): {403, address.Metadata},
		connect("b.wild.example.com:443"): {403, address.Private},
		connect("c.wild.example.com:443"): {403, address.Embedding},
		connect("d.wild.example.com:443"): {502, "no address"},
		connect("e.wild.example.com:443"): {502, "cannot be resolved"},
		connect("mixed.example.com:443"):  {403, "the name resolves to"},
		connect("2130706433:443"):         {400, "malformed"},
		connect("http://" + apiHost):      {400, ""},
		"CONNECT a.wild.example.com:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd": {400, "body"},
		"GET / HTTP/1.1\r\nHost: plain.example.com\r\n\r\n":                                   {400, "proxy"},
		"GET http://plain.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n":                           {403, address.Private},
		"GET http://evil.example.com/ HTTP/1.1\r\nHost: plain.example.com\r\n\r\n":            {403, "not among"},
		"GET https://" + apiHost + "/ HTTP/1.1\r\nHost: x\r\n\r\n":                            {400, "CONNECT"},
		"GET ftp://plain.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n":                            {400, "CONNECT"},
		"GET http://u:p@plain.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n":                       {400, "password"},
		"TRACE http://plain.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n":                         {405, "method"},
		"get http://plain.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n":                           {405, "method"},
		"PROPFIND http://plain.example.com/ HTTP/1.1\r\nHost: x\r\n\r\n":                      {405, "method"},
	} {
		before := len(r.seen())
		status, body := r.ask(raw)
		if status != want.status || !strings.Contains(body, want.reason) {
			t.Errorf("%q: %d %q, want %d %q", raw, status, body, want.status, want.reason)
			continue
		}
		if want.reason == "" {
			continue // refused by net/http itself
		}
		if a := r.nth(before + 1); a.Verdict == Allowed || !strings.Contains(a.Reason, want.reason) || a.Status != want.status || a.Job != "j" {
			t.Errorf("%q: %+v", raw, a)
		}
	}
}

// In a DNS rebinding attack, a name resolves differently the second time. The
// proxy resolves names only once.
func TestNameIsResolvedOnceAndTheCheckedAddressIsDialled(t *testing.T) {
	ca := newCA(t)
	port := ca.upstream(t, hello200, apiHost)
	r := newRig(t, ca, options{private: []string{at(apiHost, port)}, allow: []string{"rebind.example.com"}})
	r.names.set(apiHost, "169.254.169.254", "::ffff:127.0.0.1") // the first is skipped, the second unmapped and checked
	defer r.sock.Begin("j", "s").End()
	if code, _ := get(t, r.client(ca.pool), "https://"+at(apiHost, port)+"/"); code != 200 {
		t.Fatal(code)
	}
	if n := r.names.asked[apiHost]; n != 1 {
		t.Errorf("asked %d times", n)
	}
	r.names.set("rebind.example.com", "127.0.0.1")
	if status, _ := r.ask(connect("rebind.example.com:443")); status != 403 || r.names.asked["rebind.example.com"] != 1 {
		t.Error(status, r.names.asked)
	}
}

func TestTunnelMustBeginWithTheHelloOfItsHost(t *testing.T) {
	ca := newCA(t)
	port := ca.upstream(t, hello200, apiHost, "other.example.com")
	r := newRig(t, ca, options{private: []string{at(apiHost, port), at("127.0.0.1", port)}})
	r.names.set(apiHost, "127.0.0.1")
	defer r.sock.Begin("j", "s").End()
	tunnel := func(target string) net.Conn {
		c := r.dial()
		t.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, connect(target)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), &http.Request{Method: "CONNECT"})
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		return c
	}
	for _, test := range []struct{ target, server, reason string }{
		{at(apiHost, port), apiHost, ""},
		{at(apiHost, port), "other.example.com", "names another host"},
		{at(apiHost, port), "127.0.0.1", "names another host"}, // an address is not named in the hello
		{at("127.0.0.1", port), "127.0.0.1", ""},
		{at("127.0.0.1", port), apiHost, "names another host"},
	} {
		n := len(r.seen())
		c := tls.Client(tunnel(test.target), &tls.Config{ServerName: test.server, RootCAs: ca.pool})
		err := c.Handshake()
		_ = c.Close()
		if a := r.nth(n + 1); (err == nil) != (test.reason == "") || !strings.Contains(a.Reason, test.reason) || (a.Verdict == Allowed) != (test.reason == "") {
			t.Errorf("%v: %v %+v", test, err, a)
		}
	}
	for _, raw := range []string{"GET / HTTP/1.1\r\nHost: other\r\n\r\n", "SSH-2.0-go\r\n"} {
		n := len(r.seen())
		c := tunnel(at(apiHost, port))
		if _, err := io.WriteString(c, raw); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); len(got) != 0 {
			t.Errorf("%q: %q %v", raw, got, err)
		}
		if a := r.nth(n + 1); a.Verdict != Refused || !strings.Contains(a.Reason, "TLS") || a.Up != 0 {
			t.Errorf("%q: %+v", raw, a)
		}
	}
}

// endless is an upstream whose response continues until its client disconnects.
func endless(t *testing.T) (http.Handler, *sync.WaitGroup) {
	var running sync.WaitGroup
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "tick\n"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	}), &running
}

func TestEndOfAJobClosesItsConnections(t *testing.T) {
	ca := newCA(t)
	h, running := endless(t)
	port, clear := ca.upstream(t, h, apiHost), plain(t, h)
	r := newRig(t, ca, options{private: []string{at(apiHost, port), at("plain.example.com", clear)}})
	r.names.set(apiHost, "127.0.0.1")
	r.names.set("plain.example.com", "127.0.0.1")
	s := r.sock.Begin("job-1", "s-1")
	c := r.client(ca.pool)
	var bodies []io.ReadCloser
	for _, url := range []string{"https://" + at(apiHost, port), "http://" + at("plain.example.com", clear)} {
		resp, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, resp.Body)
		if _, err := io.ReadFull(resp.Body, make([]byte, 50)); err != nil {
			t.Fatal(err)
		}
	}
	idle := r.dial() // opened in this job, used in the next
	defer idle.Close()
	time.Sleep(20 * time.Millisecond)
	s.End()
	if got := r.seen(); len(got) != 2 || got[0].Verdict != Failed || got[1].Verdict != Failed || !strings.Contains(got[0].Reason+got[1].Reason, "ended") {
		t.Errorf("%+v", got)
	}
	for _, b := range bodies {
		if _, err := io.Copy(io.Discard, b); err == nil {
			t.Error("a cut stream ended like a complete one")
		}
		_ = b.Close()
	}
	running.Wait()
	if status, body := r.ask(connect(at(apiHost, port))); status != 403 || !strings.Contains(body, "no job") {
		t.Error(status, body)
	}
	s2 := r.sock.Begin("job-2", "s-1")
	defer s2.End()
	if _, err := io.WriteString(idle, connect(at(apiHost, port))); err == nil {
		if n, err := idle.Read(make([]byte, 10)); n > 0 || err == nil {
			t.Error("a connection of an earlier job works in a later one")
		}
	}
	s.End() // End of a session that already ended
	if _, body := r.ask(connect("evil.example.com:443")); !strings.Contains(body, "not among") {
		t.Errorf("the end of an old session ended the new one: %s", body)
	}
}

func TestTunnelsAreBounded(t *testing.T) {
	ca := newCA(t)
	h, _ := endless(t)
	port := ca.upstream(t, h, apiHost)
	quiet := ca.upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), apiHost)
	start := func(t *testing.T, cfg func(*Config)) (*rig, *http.Client) {
		r := newRig(t, ca, options{private: []string{at(apiHost, port), at(apiHost, quiet)}, config: cfg})
		r.names.set(apiHost, "127.0.0.1")
		s := r.sock.Begin("j", "s")
		t.Cleanup(s.End)
		return r, r.client(ca.pool)
	}
	t.Run("bytes", func(t *testing.T) {
		r, c := start(t, func(c *Config) { c.MaxBytes = 64 << 10 })
		resp, err := c.Get("https://" + at(apiHost, port))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err == nil || n > 64<<10 {
			t.Error(n, err)
		}
		if a := r.nth(1); a.Verdict != Refused || !strings.Contains(a.Reason, "data volume") || a.Up+a.Down > 64<<10+32<<10 {
			t.Errorf("%+v", a)
		}
		if status, body := r.ask(connect(at(apiHost, port))); status != 429 || !strings.Contains(body, "data volume") {
			t.Error(status, body)
		}
	})
	t.Run("silence", func(t *testing.T) {
		r, c := start(t, func(c *Config) { c.IdleLimit = 100 * time.Millisecond })
		if resp, err := c.Get("https://" + at(apiHost, quiet)); err == nil {
			_ = resp.Body.Close()
			t.Error("got a response")
		}
		if a := r.nth(1); a.Verdict != Failed || !strings.Contains(a.Reason, "idle") {
			t.Errorf("%+v", a)
		}
	})
	t.Run("time", func(t *testing.T) {
		r, c := start(t, func(c *Config) { c.TotalLimit = 200 * time.Millisecond })
		resp, err := c.Get("https://" + at(apiHost, port))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("ended without an error")
		}
		_ = resp.Body.Close()
		if a := r.nth(1); a.Verdict != Failed || !strings.Contains(a.Reason, "too long") {
			t.Errorf("%+v", a)
		}
	})
	t.Run("attempts", func(t *testing.T) {
		r, _ := start(t, func(c *Config) { c.MaxAttempts = 3 })
		for i := range 6 {
			if status, _ := r.ask(connect("evil.example.com:443")); (status == 429) != (i >= 3) {
				t.Errorf("attempt %d: %d", i, status)
			}
		}
		if got := r.seen(); len(got) != 4 || got[3].Status != 429 {
			t.Errorf("%d attempts were observed: %+v", len(got), got)
		}
	})
	t.Run("connections", func(t *testing.T) {
		r, _ := start(t, func(c *Config) { c.MaxConns = 2 })
		held := []net.Conn{r.dial(), r.dial()}
		time.Sleep(50 * time.Millisecond)
		third := r.dial()
		if n, err := third.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Error(n, err)
		}
		for _, c := range append(held, third) {
			_ = c.Close()
		}
		time.Sleep(50 * time.Millisecond)
		if status, _ := r.ask(connect("evil.example.com:443")); status != 403 {
			t.Error(status)
		}
	})
	t.Run("header", func(t *testing.T) {
		r, _ := start(t, nil)
		if status, _ := r.ask("GET http://a.example.com/ HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 64<<10) + "\r\n\r\n"); status != 431 {
			t.Error(status)
		}
	})
}

func Test500TunnelsAtOnce(t *testing.T) {
	const many = 500
	ca := newCA(t)
	var there sync.WaitGroup
	there.Add(many)
	port := ca.upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there.Done()
		there.Wait() // no request is answered before all have arrived
		_, _ = io.WriteString(w, "all")
	}), apiHost)
	r := newRig(t, ca, options{private: []string{at(apiHost, port)}, config: func(c *Config) { c.MaxConns = many }})
	r.names.set(apiHost, "127.0.0.1")
	s := r.sock.Begin("j", "s")
	began := time.Now()
	// Handshakes are expensive, so only a few run at a time; tunnels stay open
	// until all are established.
	cfg := &tls.Config{ServerName: apiHost, RootCAs: ca.pool, ClientSessionCache: tls.NewLRUClientSessionCache(1), CurvePreferences: []tls.CurveID{tls.X25519}}
	conns, next := make([]net.Conn, many), make(chan int)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range next {
				conns[i] = openTunnel(t, r, at(apiHost, port), cfg)
			}
		})
	}
	for i := range many {
		next <- i
	}
	close(next)
	workers.Wait()
	var all sync.WaitGroup
	for _, c := range conns {
		if c == nil {
			t.Fatal("a tunnel is missing")
		}
		all.Go(func() {
			defer c.Close()
			_, _ = io.WriteString(c, "GET / HTTP/1.0\r\nHost: "+apiHost+"\r\n\r\n")
			if b, err := io.ReadAll(c); !strings.HasSuffix(string(b), "all") {
				t.Errorf("%q %v", b, err)
			}
		})
	}
	all.Wait()
	r.nth(many)
	s.End()
	t.Logf("%d tunnels at once: %v", many, time.Since(began))
	got := r.seen()
	for _, a := range got {
		if a.Verdict != Allowed {
			t.Errorf("%+v", a)
		}
	}
	if len(got) != many {
		t.Errorf("%d attempts", len(got))
	}
}

// openTunnel opens a tunnel and completes the TLS handshake with the host. On a
// failure it marks the test as failed and returns nil.
func openTunnel(t *testing.T, r *rig, target string, cfg *tls.Config) net.Conn {
	c, err := socket.Dial(t.Context(), r.dir+"/"+SocketName)
	if err != nil {
		t.Error(err)
		return nil
	}
	_, _ = io.WriteString(c, connect(target))
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), &http.Request{Method: "CONNECT"})
	if err == nil && resp.StatusCode != 200 {
		err = errors.New(resp.Status)
	}
	secure := tls.Client(c, cfg)
	if err == nil {
		err = secure.Handshake()
	}
	if err != nil {
		_ = c.Close()
		t.Error(err)
		return nil
	}
	return secure
}

func TestClosedSocketRefusesEverything(t *testing.T) {
	ca := newCA(t)
	r := newRig(t, ca, options{allow: []string{apiHost}})
	s := r.sock.Begin("j", "s")
	if err := r.sock.Close(); err != nil {
		t.Fatal(err)
	}
	s.End()
	r.sock.Begin("j2", "s").End()
	if err := r.sock.Close(); err != nil {
		t.Error(err)
	}
	if err := r.proxy.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.proxy.Listen(t.TempDir()); dreamcore.CodeOf(err) != dreamcore.CodeInternal {
		t.Error(err)
	}
	if _, err := newRig(t, ca, options{}).proxy.Listen("/nowhere"); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Error(err)
	}
}
