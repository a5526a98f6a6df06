package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

const (
	pageOrigin  = "https://app.example.com"
	otherOrigin = "https://evil.example.com"
)

// link returns the path of a link to a job.
func (sv *service) link(job string) string {
	sv.t.Helper()
	status, _, body := sv.post("/jobs/"+job+"/link", "")
	path, _ := body["path"].(string)
	if status != http.StatusOK || !strings.HasPrefix(path, "/jobs/"+job+"/events?token=") || body["url"] != sv.url+path {
		sv.t.Fatalf("%d %v", status, body)
	}
	return path
}

// anonymous sends a request without a secret.
func (sv *service) anonymous(method, path string, header ...string) *http.Response {
	sv.t.Helper()
	req := sv.request(method, path, "")
	req.Header.Del(SecretHeader)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return sv.do(req)
}

// ended returns a job that has ended.
func (sv *service) ended() string {
	sv.t.Helper()
	res, s := sv.open()
	s.all()
	return res.Header.Get(JobHeader)
}

func TestALinkOpensOneStreamAndNothingElse(t *testing.T) {
	sv := start(t, options{})
	job, other := sv.ended(), sv.ended()
	path := sv.link(job)
	if res := sv.anonymous("GET", path); res.StatusCode != 200 || len(readStream(t, res.Body).all()) != 2 || res.Header.Get(JobHeader) != job {
		t.Errorf("status %d", res.StatusCode)
	}
	if res := sv.anonymous("GET", strings.Replace(path, job, strings.ToUpper(job), 1)); res.StatusCode != 200 {
		t.Errorf("the id in upper case: %d", res.StatusCode)
	}
	_, query, _ := strings.Cut(path, "?")
	token := strings.TrimPrefix(query, "token=")
	for _, e := range (&Server{}).endpoints() {
		if e.open || e.linked {
			continue
		}
		address := strings.Replace("/"+e.name, "{id}", job, 1)
		if res := sv.anonymous(e.methods[0], address+"?"+query); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", address, res.StatusCode)
		}
		for _, header := range [][]string{{SecretHeader, token}, {"Authorization", "Bearer " + token}} {
			if res := sv.anonymous(e.methods[0], address, header...); res.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s with the token as a secret: %d", address, res.StatusCode)
			}
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(i int) string {
		c := bytes.Clone(raw)
		c[i] ^= 1
		return base64.RawURLEncoding.EncodeToString(c)
	}
	longer := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(raw)+3600)
	for name, path := range map[string]string{
		"another job":     strings.Replace(path, job, other, 1),
		"an unknown job":  strings.Replace(path, job, noJob, 1),
		"no job":          "/jobs/x/events?" + query,
		"a longer time":   "/jobs/" + job + "/events?token=" + base64.RawURLEncoding.EncodeToString(append(longer, raw[expiryBytes:]...)),
		"another code":    "/jobs/" + job + "/events?token=" + changed(len(raw)-1),
		"another time":    "/jobs/" + job + "/events?token=" + changed(expiryBytes-1),
		"a part":          path[:len(path)-1],
		"more":            path + "A",
		"a line break":    path + "%0a",
		"padding":         path + "%3d",
		"twice":           path + "&" + query,
		"with another":    path + "&token=x",
		"empty":           "/jobs/" + job + "/events?token=",
		"none":            "/jobs/" + job + "/events",
		"another name":    "/jobs/" + job + "/events?Token=" + token,
		"the standard 64": "/jobs/" + job + "/events?token=" + url.QueryEscape(base64.StdEncoding.EncodeToString(raw)),
	} {
		if res := sv.anonymous("GET", path); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
	}
	for _, method := range []string{"HEAD", "POST", "DELETE"} {
		if res := sv.anonymous(method, path); res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, res.StatusCode)
		}
	}
}

func TestLinksExpireAndFollowTheRotation(t *testing.T) {
	var secrets atomic.Pointer[[]string]
	secrets.Store(&[]string{secret})
	sv := start(t, options{config: func(c *Config) { c.Secrets = func() []string { return *secrets.Load() } }})
	job := sv.ended()
	s, now := sv.server, time.Now()
	token := s.linkToken(job, now.Add(time.Minute))
	for at, want := range map[time.Duration]bool{0: true, 58 * time.Second: true, time.Minute: false, time.Hour: false} {
		if _, got := s.admitsLink(job, token, now.Add(at)); got != want {
			t.Errorf("after %v: %v", at, got)
		}
	}
	for _, tt := range []struct {
		valid []string
		want  bool
	}{{[]string{secret2, secret}, true}, {[]string{"", secret2}, false}, {[]string{secret}, true}} {
		secrets.Store(&tt.valid)
		if _, got := s.admitsLink(job, token, now); got != tt.want {
			t.Errorf("with the secrets %q: %v", tt.valid, got)
		}
	}
	other := &Server{cfg: Config{Secrets: s.cfg.Secrets, LinkKey: strings.Repeat("x", minLinkKey)}}
	if _, ok := other.admitsLink(job, token, now); ok {
		t.Error("another key accepts it")
	}
	short := s.cfg
	short.LinkKey = "short"
	if _, err := New(short); dreamcore.CodeOf(err) != dreamcore.CodeSetup || dreamcore.ReasonOf(err) != ReasonLinkKey {
		t.Errorf("a short key: %v", err)
	}
}

// unfinished starts a server with a job that has one event and runs until end is
// closed. s is the stream of its client.
func unfinished(t *testing.T) (sv *service, s *stream, job string, end chan struct{}) {
	t.Helper()
	end = make(chan struct{})
	sv = start(t, options{run: func(log *journal.Log) {
		_, _ = log.Append(dreamcore.StatusEvent("1"))
		<-end
		_, _ = log.Append(dreamcore.DoneEvent())
	}})
	first, s := sv.open()
	if _, err := s.next(); err != nil {
		t.Fatal(err)
	}
	return sv, s, first.Header.Get(JobHeader), end
}

// A link that has got into other hands must not read on after its expiry. The end is
// one that a browser understands: it comes back, is refused, and reports an error.
func TestAStreamEndsWithItsLink(t *testing.T) {
	sv, s, job, end := unfinished(t)
	expires := time.Now().Add(2 * time.Second).Truncate(time.Second)
	path := "/jobs/" + job + "/events?token=" + sv.server.linkToken(job, expires)
	res := sv.anonymous("GET", path)
	raw, err := io.ReadAll(res.Body)
	if err != nil || !strings.HasSuffix(string(raw), "\n\n"+expiredComment) || strings.Contains(string(raw), `"done"`) || strings.Count(string(raw), "\ndata:") != 1 {
		t.Errorf("the stream: %q, %v", raw, err)
	}
	if late := time.Since(expires); late < 0 || late > 10*time.Second {
		t.Errorf("it ended %v after the link", late)
	}
	if res := sv.anonymous("GET", path, "Last-Event-ID", "1"); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("the browser comes back: %d", res.StatusCode)
	}
	close(end)
	s.ids() // the stream with the secret goes on to the end of the job
}

func TestTheLifetimeOfALinkIsBounded(t *testing.T) {
	sv := start(t, options{})
	job := sv.ended()
	for body, want := range map[string]time.Duration{
		"": time.Hour, "{}": time.Hour, `{"expires_in":null}`: time.Hour, `{"expires_in":60}`: time.Minute, `{"expires_in":86400}`: 24 * time.Hour,
		`{"expires_in":59}`: 0, `{"expires_in":86401}`: 0, `{"expires_in":"60"}`: 0, `{"expires_in":-1}`: 0, `{"expires_in":1e9}`: 0, `[]`: 0,
	} {
		began := time.Now().Truncate(time.Second)
		status, _, answer := sv.post("/jobs/"+job+"/link", body)
		at, _ := answer["expires"].(string)
		expires, err := time.Parse(time.RFC3339, at)
		if want == 0 {
			if status != http.StatusBadRequest {
				t.Errorf("%s: %d %v", body, status, answer)
			}
			continue
		}
		if status != 200 || err != nil || expires.Before(began.Add(want)) || expires.After(time.Now().Add(want)) {
			t.Errorf("%s: %d %v", body, status, answer)
		}
	}
	if status, _, body := sv.post("/jobs/"+noJob+"/link", ""); status != 404 || body["error"] != "Job not found" {
		t.Errorf("%d %v", status, body)
	}
	off := start(t, options{config: func(c *Config) { c.LinkKey = "" }})
	if status, _, body := off.post("/jobs/"+off.ended()+"/link", ""); status != 404 || body["error"] != "Links to jobs are off" {
		t.Errorf("off: %d %v", status, body)
	}
}

func TestALinkAfterTheLastEventEndsTheReconnecting(t *testing.T) {
	r := startJobs(t, t.TempDir(), oneAtATime)
	job := r.generate(played(user, projectID, "x"))
	path := r.link(job)
	for after, want := range map[string]int{"1": 200, "2": 204, "3": 204} {
		if res := r.anonymous("GET", path, "Last-Event-ID", after); res.StatusCode != want || res.Header.Get(JobHeader) != job {
			t.Errorf("after %s: %d", after, res.StatusCode)
		}
	}
}

func TestLinksAreInNoLog(t *testing.T) {
	var out safeBuffer
	sv := start(t, options{config: func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}})
	path := sv.link(sv.ended())
	_, token, _ := strings.Cut(path, "token=")
	for _, p := range []string{path, path + "x", strings.Replace(path, "/events", "/nothing", 1), strings.Replace(path, "/events", "", 1), path + "&after=x"} {
		_, _ = io.Copy(io.Discard, sv.anonymous("GET", p).Body)
	}
	sv.stop()
	<-sv.stopped
	if text := out.String(); strings.Contains(text, token) || !strings.Contains(text, "jobs/{id}/events") {
		t.Errorf("the log: %s", text)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestPagesOfConfiguredOriginsMayRead(t *testing.T) {
	sv := start(t, options{})
	job := sv.ended()
	path := sv.link(job)
	preflight := []string{"Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "last-event-id"}
	for _, tt := range []struct {
		name, method, path, origin string
		header                     []string
		status                     int
		allowed                    string
	}{
		{"a page", "GET", path, pageOrigin, nil, 200, pageOrigin},
		{"no page", "GET", path, "", nil, 200, ""},
		{"another page", "GET", path, otherOrigin, nil, 403, ""},
		{"an origin without a name", "GET", path, "null", nil, 403, ""},
		{"another scheme", "GET", path, "http://app.example.com", nil, 403, ""},
		{"another port", "GET", path, pageOrigin + ":8443", nil, 403, ""},
		{"another case", "GET", path, "https://APP.example.com", nil, 403, ""},
		{"a page below", "GET", path, "https://x.app.example.com", nil, 403, ""},
		{"a wrong link", "GET", path + "x", pageOrigin, nil, 401, pageOrigin},
		{"preflight", "OPTIONS", path, pageOrigin, preflight, 204, pageOrigin},
		{"preflight of another page", "OPTIONS", path, otherOrigin, preflight, 405, ""},
		{"no preflight", "OPTIONS", path, pageOrigin, nil, 405, pageOrigin},
		{"another endpoint", "GET", "/jobs/" + job, pageOrigin, nil, 401, ""},
		{"preflight of another endpoint", "OPTIONS", "/jobs/" + job + "/cancel", pageOrigin, preflight, 405, ""},
		{"preflight of a generation", "OPTIONS", "/generate_game", pageOrigin, preflight, 405, ""},
	} {
		header := tt.header
		if tt.origin != "" {
			header = append([]string{"Origin", tt.origin}, header...)
		}
		res := sv.anonymous(tt.method, tt.path, header...)
		h := res.Header
		if res.StatusCode != tt.status || h.Get("Access-Control-Allow-Origin") != tt.allowed || h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: %d %v", tt.name, res.StatusCode, h)
		}
		if strings.Contains(tt.path, "/events") && h.Get("Vary") != "Origin" {
			t.Errorf("%s: Vary is %q", tt.name, h.Get("Vary"))
		}
		if names := strings.ToLower(h.Get("Access-Control-Allow-Headers")); tt.status == 204 && (!strings.Contains(names, "last-event-id") || strings.Contains(names, "secret") || strings.Contains(names, "authorization")) {
			t.Errorf("%s: allowed headers %q", tt.name, names)
		}
	}
	none := start(t, options{config: func(c *Config) { c.CORSOrigins = nil }})
	if res := none.anonymous("GET", none.link(none.ended()), "Origin", pageOrigin); res.StatusCode != 403 || res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("without cors_origins: %d %v", res.StatusCode, res.Header)
	}
}

func TestReadersWithLinksAreBounded(t *testing.T) {
	sv, s, job, end := unfinished(t)
	path := sv.link(job)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	for range maxLinked {
		req := sv.request("GET", path, "").WithContext(ctx)
		req.Header.Del(SecretHeader)
		if res := sv.do(req); res.StatusCode != 200 {
			t.Fatalf("status %d", res.StatusCode)
		}
	}
	res := sv.anonymous("GET", path)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %d", res.StatusCode)
	}
	if got := sv.follow(job, "?after=1"); got == nil { // the secret is not bounded
		t.Error("the front end is refused")
	}
	close(end)
	s.ids()
}
