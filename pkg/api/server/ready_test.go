package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestLivenessDoesNotDependOnGames(t *testing.T) {
	sv := start(t, options{config: func(c *Config) {
		c.Health = func() error { return errors.New("the disk is full") }
		c.Ready = func() []Check { return []Check{{Name: "disk", Err: errors.New("the disk is full")}} }
	}})
	req := sv.request(http.MethodGet, "/livez", "")
	req.Header.Del(SecretHeader)
	status, _, body := object(t, sv.do(req))
	if diff := cmp.Diff(map[string]any{"status": "alive"}, body); status != http.StatusOK || diff != "" {
		t.Errorf("status %d %s", status, diff)
	}
}

func TestReadinessNamesEachReason(t *testing.T) {
	var checks []Check
	sv := start(t, options{config: func(c *Config) { c.Ready = func() []Check { return checks } }})
	ask := func() (int, http.Header, map[string]any) {
		req := sv.request(http.MethodGet, "/readyz", "")
		req.Header.Del(SecretHeader)
		return object(t, sv.do(req))
	}
	checks = []Check{{Name: "disk"}, {Name: "queue"}}
	ok := map[string]any{"ok": true}
	status, _, body := ask()
	if diff := cmp.Diff(map[string]any{"status": "ready", "checks": map[string]any{"disk": ok, "queue": ok}}, body); status != http.StatusOK || diff != "" {
		t.Errorf("status %d %s", status, diff)
	}
	checks = []Check{
		{Name: "disk", Fault: "the disk is full"},
		{Name: "queue", Fault: "the queue is full", Err: &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "4096 jobs are waiting", Err: errors.New("/var/lib/secret-path")}},
		{Name: "sandbox", Fault: "sandboxes do not start", Err: errors.New("open /var/lib/secret-path: no")},
	}
	status, header, body := ask()
	want := map[string]any{"status": "unready", "checks": map[string]any{
		"disk": ok, "queue": map[string]any{"ok": false, "reason": "the queue is full"}, "sandbox": map[string]any{"ok": false, "reason": "sandboxes do not start"},
	}}
	if diff := cmp.Diff(want, body); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || diff != "" {
		t.Errorf("status %d %s", status, diff)
	}
}

func TestMetricsNeedTheSecret(t *testing.T) {
	sv := start(t, options{})
	res := sv.do(sv.request(http.MethodGet, "/metrics", ""))
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || string(text) != "metric 1\n" {
		t.Errorf("status %d: %q, %v", res.StatusCode, text, err)
	}
	req := sv.request(http.MethodGet, "/metrics", "")
	req.Header.Del(SecretHeader)
	if res := sv.do(req); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("without the secret: status %d", res.StatusCode)
	}
	elsewhere := start(t, options{config: func(c *Config) { c.Metrics = nil }})
	if res := elsewhere.do(elsewhere.request(http.MethodGet, "/metrics", "")); res.StatusCode != http.StatusNotFound {
		t.Errorf("with an address of their own: status %d", res.StatusCode)
	}
}

func TestEveryRequestIsObserved(t *testing.T) {
	type seen struct {
		endpoint string
		status   int
	}
	var mu sync.Mutex
	var got []seen
	sv := start(t, options{config: func(c *Config) {
		c.Observe = func(endpoint string, status int) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, seen{endpoint, status})
		}
	}})
	sv.do(sv.request(http.MethodPost, "/test-auth", ""))
	sv.do(sv.request(http.MethodGet, "/nothing/"+user, ""))
	sv.do(sv.request(http.MethodGet, "/jobs/"+user, ""))
	sv.end()
	mu.Lock()
	defer mu.Unlock()
	if want := []seen{{"test_auth", 200}, {"", 404}, {"jobs/{id}", 404}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestTheLogNamesClientAndRequest(t *testing.T) {
	var log bytes.Buffer
	sv := start(t, options{config: func(c *Config) {
		c.Logger = slog.New(slog.NewJSONHandler(&log, nil))
		c.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}})
	req := sv.request(http.MethodPost, "/generate_game", generateBody)
	req.Header.Set(RequestHeader, "front-end-7")
	req.Header.Set("X-Forwarded-For", "203.0.113.5")
	res := sv.do(req)
	if _, err := io.ReadAll(res.Body); err != nil || res.Header.Get(RequestHeader) != "front-end-7" {
		t.Errorf("%v, %v", res.Header, err)
	}
	bad := sv.request(http.MethodPost, "/test_auth", "")
	bad.Header.Set(RequestHeader, "two words")
	if own := sv.do(bad).Header.Get(RequestHeader); own == "" || own == "two words" {
		t.Errorf("the id %q was taken over", own)
	}
	sv.end()
	if id := sv.generator.lastRequest().RequestID; id != "front-end-7" {
		t.Errorf("the job has the request id %q", id)
	}
	line, _, _ := strings.Cut(log.String(), "\n")
	var entry map[string]any
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		t.Fatal(err)
	}
	if entry["request"] != "front-end-7" || entry["client"] != "203.0.113.5" || entry["user"] != user || entry["job"] == nil || entry["endpoint"] != "generate_game" {
		t.Errorf("%s", line)
	}
}

// end stops the server and waits until it has logged every request.
func (sv *service) end() {
	sv.client.CloseIdleConnections()
	sv.stop()
	if err := <-sv.stopped; err != nil {
		sv.t.Errorf("Serve: %v", err)
	}
}
