package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// player is a client with cookies, for which every host name resolves to loopback.
func player(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: tr, Timeout: 20 * time.Second}
}

// fetch returns the final answer after redirects.
func fetch(t *testing.T, c *http.Client, address string, header ...string) (status int, body, at string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw), resp.Request.URL.String()
}

func (h *host) previewLink(args ...string) string {
	h.t.Helper()
	var l struct {
		URL     string
		Expires time.Time
	}
	if err := json.Unmarshal([]byte(h.must(append([]string{"preview", "--json"}, args...)...)), &l); err != nil || time.Until(l.Expires) <= 0 {
		h.t.Fatalf("%+v, %v", l, err)
	}
	return l.URL
}

func TestAGameIsShownUnderANameOfItsOwn(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	if events := s.events("/generate_game", generateBody(alice, project, "a snake game")); events[len(events)-1]["type"] != "done" {
		t.Fatalf("%v", events)
	}
	link := h.previewLink(project, "--user", alice, "--for", "1h")
	c := player(t)
	status, page, at := fetch(t, c, link)
	if status != 200 || !strings.Contains(page, "game.js") || strings.Contains(at, "?") || strings.Contains(at, alice[:8]) {
		t.Fatalf("%d at %s: %.200s", status, at, page)
	}
	if status, js, _ := fetch(t, c, at+"game.js"); status != 200 || js != s.file(alice, project, "game.js") {
		t.Errorf("game.js: %d", status)
	}
	// The service does not answer there, not even with its secret.
	for _, path := range []string{"health", "list_files?user_id=" + alice + "&project_id=" + project, ""} {
		if status, body, _ := fetch(t, player(t), at+path, "X-Modal-Secret", s.secret); status != 401 || strings.Contains(body, "healthy") {
			t.Errorf("/%s: %d %.100s", path, status, body)
		}
	}
	// The front end gets the same from the service.
	status, o := s.object("/preview_link", generateBody(alice, project, ""))
	if u, err := url.Parse(o["url"].(string)); status != 200 || err != nil || !strings.HasPrefix(at, "http://"+u.Host+"/") {
		t.Errorf("%d %v", status, o)
	}
	remote := h.previewLink(project, "--user", alice, "--endpoint", s.url)
	if status, _, to := fetch(t, player(t), remote); status != 200 || to != at {
		t.Errorf("by the endpoint: %d %s", status, to)
	}
	if r := h.run("preview", bob); r.code != 1 || !strings.Contains(r.stderr, "Project not found") {
		t.Errorf("no project: %d %s", r.code, r.stderr)
	}
	if r := h.run("preview", project, "--for", "1s"); r.code != 2 || !strings.Contains(r.stderr, "--for") {
		t.Errorf("a second: %d %s", r.code, r.stderr)
	}
	s.stop()
	if r := h.run("preview", project, "--user", alice); r.code != 3 || !strings.Contains(r.stderr, "dreamcore serve") {
		t.Errorf("no service: %d %s", r.code, r.stderr)
	}

	// After a restart, with a listener of their own.
	h.env = append(h.env, "DREAMCORE_PREVIEW_LISTEN=127.0.0.1:0", "DREAMCORE_PREVIEW_DOMAIN=http://games.test:80")
	again := h.serve("--model-script", "demo")
	link = h.previewLink(project, "--user", alice)
	u, err := url.Parse(link)
	if err != nil || !strings.HasSuffix(u.Host, ".games.test") && !strings.HasSuffix(u.Host, ".games.test:80") {
		t.Fatalf("%s %v", link, err)
	}
	label, _, _ := strings.Cut(u.Host, ".")
	if before, _, _ := strings.Cut(strings.TrimPrefix(at, "http://"), "."); label != before {
		t.Errorf("the game's name was %s and is %s", before, label)
	}
	service, err := url.Parse(again.url)
	if err != nil {
		t.Fatal(err)
	}
	if status, body, _ := fetch(t, player(t), "http://"+label+".games.test:"+service.Port()+"/health"); status != http.StatusMisdirectedRequest || strings.Contains(body, "healthy") {
		t.Errorf("a game's name at the service: %d %s", status, body)
	}
}

func TestPreviewsCanBeTurnedOff(t *testing.T) {
	h := newHost(t)
	h.env = append(h.env, "DREAMCORE_PREVIEW_DOMAIN=off")
	s := h.serve("--model-script", "demo")
	if r := h.run("preview", "--user", alice, project); r.code != 1 || !strings.Contains(r.stderr, "preview_domain") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	if status, o := s.object("/preview_link", generateBody(alice, project, "")); status != 404 || !strings.Contains(o["error"].(string), "off") {
		t.Errorf("%d %v", status, o)
	}
}

// TestOpenPlaysTheGameInAnOriginOfItsOwn follows the link that generate prints.
func TestOpenPlaysTheGameInAnOriginOfItsOwn(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := h.command(ctx, "generate", "a snake game", "--open")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	link := ""
	lines := bufio.NewScanner(out)
	for link == "" && lines.Scan() {
		link = regexp.MustCompile(`http://[a-z2-7]{26}\.localhost:\d+/\S+`).FindString(lines.Text())
	}
	if link == "" {
		t.Fatal("no link is printed")
	}
	if status, page, _ := fetch(t, player(t), link); status != 200 || !strings.Contains(page, "game.js") {
		t.Errorf("%d %.200s", status, page)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted: %v", err)
	}
}
