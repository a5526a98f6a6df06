package preview

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

var local = Place{Scheme: "http", Host: Localhost}

func body(t testing.TB, resp *http.Response) string {
	t.Helper()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestLinkBecomesCookieAndCleanAddress(t *testing.T) {
	st := open(t, local)
	st.write(gameA, map[string]string{"index.html": "game A", "a/b.js": "let b"})
	u := st.link(gameA)
	if label, _, _ := strings.Cut(u.Host, "."); !isLabel(label) || strings.Contains(u.String(), "a11ce") || strings.Contains(u.String(), "123e4567") {
		t.Errorf("the link is %s", u)
	}
	resp := st.do("GET", u.Host, "/a/b.js?x=1&"+u.RawQuery+"&y=2")
	if resp.StatusCode != 303 || resp.Header.Get("Location") != "/a/b.js?x=1&y=2" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	c := resp.Cookies()[0]
	if c.Domain != "" || c.Path != "/" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure || time.Until(c.Expires) > time.Hour || strings.Contains(c.Value, u.Query().Get(tokenParameter)) {
		t.Errorf("cookie: %s", c)
	}
	resp = st.do("GET", u.Host, "/a/b.js", "Cookie", c.Name+"=planted; "+c.Name+"="+c.Value)
	if got := body(t, resp); resp.StatusCode != 200 || got != "let b" || resp.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("%s %q %v", resp.Status, got, resp.Header)
	}
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		"Origin-Agent-Cluster": "?1", "Cache-Control": "private, no-cache", "Access-Control-Allow-Origin": "", "Set-Cookie": "",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, s := range []string{"form-action 'none'", "object-src 'none'", "base-uri 'self'", "frame-ancestors 'self';", "sandbox allow-scripts"} {
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, s) {
			t.Errorf("missing %s in %s", s, csp)
		}
	}
	if again := st.link(gameA); again.Host != u.Host || again.RawQuery == u.RawQuery {
		t.Errorf("another link to the same game is %s", again)
	}
}

func TestCookieUnderHTTPS(t *testing.T) {
	st := open(t, Place{Scheme: "https", Host: "games.test"}, func(c *Config) { c.Ancestors = []string{"https://app.test"} })
	st.write(gameA, map[string]string{"index.html": "game A"})
	u := st.link(gameA)
	if u.Scheme != "https" {
		t.Errorf("%s", u)
	}
	c := st.do("GET", u.Host, u.RequestURI()).Cookies()[0]
	if !c.Secure || !strings.HasPrefix(c.Name, "__Host-") || c.SameSite != http.SameSiteLaxMode || c.Partitioned {
		t.Errorf("%s", c)
	}
	resp := st.do("GET", u.Host, u.RequestURI(), "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe")
	if c := resp.Cookies()[0]; !c.Secure || c.SameSite != http.SameSiteNoneMode || !c.Partitioned || c.Domain != "" {
		t.Errorf("in a frame: %s", c)
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'self' https://app.test;") {
		t.Error(csp)
	}
}

func TestGamesNeedTheirLink(t *testing.T) {
	st := open(t, local)
	st.write(gameA, map[string]string{"index.html": "game A"})
	st.write(gameB, map[string]string{"index.html": "game B"})
	hostA, cookieA := st.enter(gameA)
	hostB, cookieB := st.enter(gameB)
	name, valueA, _ := strings.Cut(cookieA, "=")
	tokenA, tokenB := st.link(gameA).Query().Get(tokenParameter), st.link(gameB).Query().Get(tokenParameter)
	if hostA == hostB {
		t.Fatal("two games have the same host")
	}
	forged := func(token string) (all []string) {
		for i := range token { // replace each character
			for _, c := range "Aa0_" {
				if f := token[:i] + string(c) + token[i+1:]; f != token {
					all = append(all, f)
				}
			}
			all = append(all, token[:i])
		}
		return append(all, token+"A", token+"=", token+"\n", strings.Repeat("A", 92), strings.Repeat("A", 10000), "..", "%00")
	}
	for _, f := range forged(tokenA) {
		if g, ok := st.service.sealer.open(scopeLink, f, time.Now()); ok {
			t.Errorf("the forged token %q opens %+v", f, g)
		}
	}
	otherKey := open(t, local, func(c *Config) { c.Key = strings.Repeat("o", minKey) })
	otherKey.write(gameA, nil)
	foreign := otherKey.link(gameA).Query().Get(tokenParameter)
	link := func(token string) string { return "/?" + tokenParameter + "=" + url.QueryEscape(token) }
	for what, resp := range map[string]*http.Response{
		"nothing":                        st.do("GET", hostA, "/"),
		"the secret":                     st.do("GET", hostA, "/", "X-Modal-Secret", strings.Repeat("k", minKey)),
		"a cookie of another game":       st.do("GET", hostA, "/", "Cookie", cookieB),
		"a link to another game":         st.do("GET", hostA, link(tokenB)),
		"our link at another game":       st.do("GET", hostB, link(tokenA)),
		"our cookie at another game":     st.do("GET", hostB, "/", "Cookie", cookieA),
		"a link in a cookie":             st.do("GET", hostA, "/", "Cookie", name+"="+tokenA),
		"a cookie in a link":             st.do("GET", hostA, link(valueA)),
		"a token of another key":         st.do("GET", hostA, link(foreign)),
		"a forged token":                 st.do("GET", hostA, link("A"+tokenA[1:])),
		"no token":                       st.do("GET", hostA, link(""), "Cookie", cookieA),
		"a cookie of another name":       st.do("GET", hostA, "/", "Cookie", "x"+cookieA),
		"a path token in the own origin": st.do("GET", hostA, "/"+tokenA+"/"),
	} {
		if got := body(t, resp); resp.StatusCode != 401 || strings.Contains(got, "game A") || !strings.Contains(got, pageLink.title) || len(resp.Cookies()) > 0 {
			t.Errorf("%s: %s %v %.200s", what, resp.Status, resp.Header, got)
		}
	}
	if resp := st.do("GET", strings.ToUpper(hostA), "/", "Cookie", cookieA); body(t, resp) != "game A" {
		t.Errorf("with its cookie: %s", resp.Status)
	}
}

func TestLinksAndCookiesExpireTogether(t *testing.T) {
	st := open(t, local)
	st.write(gameA, map[string]string{"index.html": "game A"})
	u := st.link(gameA)
	host, cookie := st.enter(gameA)
	for _, tt := range []struct {
		later        time.Duration
		link, cookie int
	}{{0, 303, 200}, {59 * time.Minute, 303, 200}, {time.Hour, 401, 401}, {time.Hour * 24 * 365 * 100, 401, 401}} {
		st.service.now = func() time.Time { return time.Now().Add(tt.later) }
		if got := st.do("GET", host, u.RequestURI()); got.StatusCode != tt.link {
			t.Errorf("after %v the link gives %s", tt.later, got.Status)
		}
		if got := st.do("GET", host, "/", "Cookie", cookie); got.StatusCode != tt.cookie {
			t.Errorf("after %v the cookie gives %s", tt.later, got.Status)
		}
	}
	st.service.now = time.Now
	for _, d := range []time.Duration{time.Second, -time.Hour, MaxLifetime + 1} {
		if _, _, err := st.service.Link(alice, gameA, d); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
			t.Errorf("a link for %v: %v", d, err)
		}
	}
	if _, expires, err := st.service.Link(alice, gameA, 0); err != nil || time.Until(expires) < 23*time.Hour {
		t.Errorf("%v %v", expires, err)
	}
	if _, _, err := st.service.Link(alice, dreamcore.NewProjectID(), 0); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("a link to nothing: %v", err)
	}
}

func TestOtherRequestsAreRefused(t *testing.T) {
	st := open(t, local)
	st.write(gameA, map[string]string{"index.html": "game A", "sw.js": "onfetch = () => {}"})
	host, cookie := st.enter(gameA)
	for _, tt := range []struct {
		method, uri string
		header      []string
		status      int
	}{
		{"GET", "/sw.js", []string{"Service-Worker", "script"}, 403},
		{"GET", "/sw.js", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "no-cors"}, 200},
		{"GET", "/sw.js", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{"GET", "/sw.js", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"}, 403},
		{"GET", "/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
		{"GET", "/", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 200},
		{"HEAD", "/", nil, 200}, {"POST", "/", nil, 405}, {"PUT", "/", nil, 405}, {"DELETE", "/", nil, 405},
		{"OPTIONS", "/", []string{"Origin", "http://evil.test", "Access-Control-Request-Method", "GET"}, 405}, {"OPTIONS", "*", nil, 405}, {"TRACE", "/", nil, 405},
	} {
		resp := st.do(tt.method, host, tt.uri, append(tt.header, "Cookie", cookie)...)
		if resp.StatusCode != tt.status || resp.Header.Get("Access-Control-Allow-Origin") != "" || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s %s %v: %s %v", tt.method, tt.uri, tt.header, resp.Status, resp.Header)
		}
	}
	for _, h := range []string{"localhost", "127.0.0.1", "x.localhost", "a." + host, "", strings.Replace(host, ".", "x.", 1), strings.Replace(host, "localhost", "example.com", 1)} {
		if resp := st.do("GET", h, "/", "Cookie", cookie); resp.StatusCode != http.StatusMisdirectedRequest && resp.StatusCode != 400 {
			t.Errorf("host %q: %s", h, resp.Status)
		}
	}
}

func TestFilesAreServedLikeByAWebServer(t *testing.T) {
	st := open(t, local)
	dir := st.write(gameA, map[string]string{
		"play.html": "the page", "sub/index.html": "sub", "sub/a b#?%.txt": "odd", "big.bin": strings.Repeat("x", 100_000), "ゲーム.html": "game",
	})
	host, cookie := st.enter(gameA)
	get := func(uri string, header ...string) *http.Response {
		return st.do("GET", host, uri, append(header, "Cookie", cookie)...)
	}
	for _, tt := range []struct {
		uri, location, body string
		status              int
	}{
		{"/", "/play.html", "", 303}, {"/index.html?x=1", "/play.html?x=1", "", 303}, {"/play.html", "", "the page", 200},
		{"/sub", "/sub/", "", 303}, {"/sub?q", "/sub/?q", "", 303}, {"/sub/", "", "sub", 200}, {"//sub//index.html", "", "sub", 200}, {"//sub", "/sub/", "", 303},
		{"/sub/a%20b%23%3F%25.txt", "", "odd", 200}, {"/%E3%82%B2%E3%83%BC%E3%83%A0.html", "", "game", 200},
		{"/none.js", "", "", 404}, {"/none/", "", "", 404}, {"/play.html/", "", "", 404}, {"/play.html/x", "", "", 404},
		{"//evil.test/%2e%2e", "", "", 404}, {`/\evil.test`, "", "", 404},
	} {
		resp := get(tt.uri)
		got := body(t, resp)
		if resp.StatusCode != tt.status || resp.Header.Get("Location") != tt.location || tt.body != "" && got != tt.body {
			t.Errorf("%s: %s %q %.100q", tt.uri, resp.Status, resp.Header.Get("Location"), got)
		}
	}
	time.Sleep(2 * project.TagDelay)
	resp := get("/big.bin", "Range", "bytes=10-19")
	if resp.StatusCode != 206 || body(t, resp) != "xxxxxxxxxx" || resp.Header.Get("Content-Range") != "bytes 10-19/100000" {
		t.Errorf("a range: %s %v", resp.Status, resp.Header)
	}
	if tag := get("/big.bin").Header.Get("ETag"); tag == "" || get("/big.bin", "If-None-Match", tag).StatusCode != 304 {
		t.Errorf("the tag is %q", tag)
	}
	if resp := st.do("HEAD", host, "/big.bin", "Cookie", cookie); resp.ContentLength != 100_000 || body(t, resp) != "" {
		t.Errorf("HEAD: %v", resp.Header)
	}
	if resp := get("/play.html"); resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", resp.Header)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if resp := get("/play.html"); resp.StatusCode != 404 || !strings.Contains(body(t, resp), pageNoGame.title) {
		t.Errorf("a deleted project: %s", resp.Status)
	}
	st.write(gameA, map[string]string{"game.js": ""})
	if resp := get("/"); resp.StatusCode != 404 || !strings.Contains(body(t, resp), pageNoPage.title) {
		t.Errorf("a project without a page: %s", resp.Status)
	}
}

// TestNoPathLeavesTheGame tries every form of a path out of the project, and
// names that are not files of a game.
func TestNoPathLeavesTheGame(t *testing.T) {
	st := open(t, local)
	shared := open(t, Place{Scheme: "http", Host: "127.0.0.1", Shared: true})
	const canary = "canary-5up3r"
	var forms []string
	up := []string{"..", "%2e%2e", ".%2e", "%2e.", "%2E%2E", "%252e%252e", "..%00", "..;", ". .", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "\u2024\u2024", "%uff0e%uff0e", "...", "....", "..%20", "..%09", "..%ff"}
	separators := []string{"/", "%2f", "%2F", `\`, "%5c", "%252f", "//", "/./", "%c0%af", "\u2215"}
	for _, u := range up {
		for _, s := range separators {
			for depth := 1; depth <= 5; depth += 2 {
				forms = append(forms, strings.Repeat(u+s, depth)+"canary.txt", "sub/"+strings.Repeat(u+s, depth)+"canary.txt")
			}
		}
	}
	forms = append(forms, ".git/config", "sub/.hidden", "%2egit/config", ".%67it/config", "link.txt", "up/canary.txt", "fifo", "sub/..%2f..%2fcanary.txt",
		"/etc/passwd", "//etc/passwd", "file:///etc/passwd", "C:/canary.txt", `C:\canary.txt`, "%00", "index.html%00.txt", strings.Repeat("a/", 3000), strings.Repeat("a", 5000))
	for name, at := range map[string]*stage{"own": st, "shared": shared} {
		dir := at.write(gameA, map[string]string{"index.html": "game A", "sub/x.js": "", ".git/config": canary, "sub/.hidden": canary})
		outside := filepath.Dir(dir)
		for d := outside; strings.HasPrefix(d, at.volumesDir()); d = filepath.Dir(d) {
			if err := os.WriteFile(filepath.Join(d, "canary.txt"), []byte(canary), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for link, target := range map[string]string{"link.txt": "../canary.txt", "up": ".."} {
			if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
			t.Fatal(err)
		}
		host, prefix, cookie := "", at.link(gameA).Path, ""
		if name == "own" {
			host, cookie = at.enter(gameA)
		} else {
			host = at.link(gameA).Host
		}
		tried := 0
		for _, f := range forms {
			resp := at.do("GET", host, prefix+f, "Cookie", cookie)
			got := body(t, resp)
			resp.Body.Close()
			if strings.Contains(got, canary) || strings.Contains(got, "root:") || resp.StatusCode == 200 || resp.StatusCode >= 500 {
				t.Errorf("%s %q: %s %.100q", name, f, resp.Status, got)
			}
			if to := resp.Header.Get("Location"); to != "" && (!strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`)) {
				t.Errorf("%s %q: it sends the browser to %s", name, f, to)
			}
			tried++
		}
		t.Logf("%s: %d forms", name, tried)
	}
}

func (st *stage) volumesDir() string {
	dir, err := st.volumes.Path("dreamcore-data")
	if err != nil {
		st.t.Fatal(err)
	}
	return dir
}

func TestSharedOriginHasItsTokenInThePath(t *testing.T) {
	st := open(t, Place{Scheme: "http", Host: "127.0.0.1", Shared: true}, func(c *Config) { c.Hosts = []string{"https://cdn.test"} })
	st.write(gameA, map[string]string{"index.html": "game A", "sub/index.html": "sub"})
	u := st.link(gameA)
	resp := st.do("GET", u.Host, u.RequestURI())
	csp := resp.Header.Get("Content-Security-Policy")
	if body(t, resp) != "game A" || resp.Header.Get("Access-Control-Allow-Origin") != "*" || len(resp.Cookies()) > 0 ||
		strings.Contains(csp, "allow-same-origin") || !strings.Contains(csp, "sandbox allow-scripts") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "https://cdn.test") {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	token := strings.Trim(u.Path, "/")
	for uri, want := range map[string]string{"/" + token: u.Path, u.Path + "sub": u.Path + "sub/"} {
		if resp := st.do("GET", u.Host, uri); resp.StatusCode != 303 || resp.Header.Get("Location") != want {
			t.Errorf("%s: %s %s", uri, resp.Status, resp.Header.Get("Location"))
		}
	}
	for _, uri := range []string{"/", "/index.html", "/x" + token + "/", "/" + token[1:] + "/", "/?preview_token=" + token} {
		if resp := st.do("GET", u.Host, uri); resp.StatusCode != 401 {
			t.Errorf("%s: %s", uri, resp.Status)
		}
	}
	st.service.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if resp := st.do("GET", u.Host, u.RequestURI()); resp.StatusCode != 401 {
		t.Errorf("expired: %s", resp.Status)
	}
	if st.service.Serves("127.0.0.1") || st.service.Serves("") {
		t.Error("a shared origin claims hosts of the service")
	}
}

func TestShortKeyIsRefused(t *testing.T) {
	_, err := New(Config{Place: local, Key: "short", Projects: open(t, local).volumes})
	if dreamcore.CodeOf(err) != dreamcore.CodeSetup || dreamcore.ReasonOf(err) != ReasonKey {
		t.Errorf("%v", err)
	}
}

func BenchmarkFileOf100kB(b *testing.B) {
	st := open(b, local)
	st.write(gameA, map[string]string{"index.html": "x", "big.bin": strings.Repeat("x", 100_000)})
	host, cookie := st.enter(gameA)
	req, err := http.NewRequest("GET", "http://"+st.addr+"/big.bin", nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Host = host
	req.Header.Set("Cookie", cookie)
	for b.Loop() {
		resp, err := st.client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != 100_000 || err != nil {
			b.Fatal(fmt.Sprint(resp.Status, n, err))
		}
	}
}

func FuzzOpenToken(f *testing.F) {
	s, err := newSealer(strings.Repeat("k", minKey))
	if err != nil {
		f.Fatal(err)
	}
	good, err := s.seal(scopeLink, grant{alice, gameA, time.Now().Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-1])
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		if g, ok := s.open(scopeLink, token, time.Now()); ok {
			t.Errorf("%q opens %+v", token, g)
		}
	})
}
