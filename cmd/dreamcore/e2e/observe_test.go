package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// get returns the status and the body of a GET; secret may be "".
func (s *service) get(path, secret string) (int, string) {
	s.h.t.Helper()
	req, err := http.NewRequestWithContext(s.h.t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.h.t.Fatal(err)
	}
	if secret != "" {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.h.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// A job ends while the receiver of webhooks is down, and the service is killed. The
// next process delivers what waits. Meanwhile the service shows what it did.
func TestWebhooksSurviveAKillAndMetricsShowTheJob(t *testing.T) {
	const key = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
	type message struct {
		path   string
		header http.Header
		body   []byte
	}
	var up atomic.Bool
	refused, accepted := make(chan message, 100), make(chan message, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m := message{r.URL.Path, r.Header.Clone(), body}
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			refused <- m
			return
		}
		accepted <- m
	}))
	defer receiver.Close()
	h := newHost(t)
	h.must("secret", "create", "webhook", "KEY="+key)
	settings := "timeout: 1h\nwebhooks:\n- {url: \"" + receiver.URL + "/all\", secret: webhook, private: true}\n" +
		"- {url: \"" + receiver.URL + "\", secret: webhook/KEY, private: true, per_request: true}\n"
	if err := os.WriteFile(filepath.Join(h.state, "config.yaml"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	script := writeScript(t, `{"conversations":[[{"tools":[{"name":"Write","input":{"file_path":"index.html","content":"<p>ok"}}]},{"text":"done"}]]}`)
	s := h.serve("--model-script", script)
	body := strings.Replace(generateBody(alice, project, "a snake game"), "{", `{"webhook_url":"`+receiver.URL+`/mine",`, 1)
	events := s.events("/generate_game", body, "X-Request-Id", "front-end-7")
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Fatalf("last event: %v", last)
	}
	ids := map[string]bool{(<-refused).header.Get("Webhook-Id"): true, (<-refused).header.Get("Webhook-Id"): true}

	if code, text := s.get("/livez", ""); code != 200 || !strings.Contains(text, `"alive"`) {
		t.Errorf("/livez: %d %s", code, text)
	}
	if code, text := s.get("/readyz", ""); code != 200 || strings.Count(text, `"ok":true`) != 5 {
		t.Errorf("/readyz: %d %s", code, text)
	}
	if code, _ := s.get("/metrics", ""); code != 401 {
		t.Errorf("/metrics without the secret: %d", code)
	}
	text := ""
	waitUpTo(t, time.Minute, "an idle sandbox, after the start of an agent for the next job", func() bool {
		_, text = s.get("/metrics", s.secret)
		return strings.Contains(text, "\n"+`dreamcore_sandboxes{state="idle"} 1`)
	})
	for _, want := range []string{
		`dreamcore_jobs_total{code="",state="succeeded"} 1`, "dreamcore_job_wait_seconds_count 1", "dreamcore_job_first_word_seconds_count 1",
		`dreamcore_sandboxes{state="idle"} 1`, "dreamcore_disk_free_bytes ", "dreamcore_webhook_backlog 2", `dreamcore_ready{check="draining"} 1`,
		`dreamcore_http_requests_total{endpoint="generate_game",status="2xx"} 1`, "dreamcore_build_info{",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("/metrics: missing %s", want)
		}
	}
	for _, foreign := range []string{alice, project} {
		if strings.Contains(text, foreign) {
			t.Error("/metrics names a user or a project")
		}
	}

	s.kill()
	up.Store(true)
	s = h.serve("--model-script", script)
	paths := map[string]bool{}
	verifier, err := standardwebhooks.NewWebhook(key)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m := <-accepted
		paths[m.path] = true
		if err := verifier.Verify(m.body, m.header); err != nil || !ids[m.header.Get("Webhook-Id")] {
			t.Errorf("%v: %v", err, m.header)
		}
		var event struct {
			Type string
			Data map[string]any
		}
		if err := json.Unmarshal(m.body, &event); err != nil || event.Type != "job.succeeded" || event.Data["user_id"] != alice || event.Data["request_id"] != "front-end-7" {
			t.Errorf("%v: %s", err, m.body)
		}
	}
	if !paths["/all"] || !paths["/mine"] {
		t.Errorf("delivered to %v", paths)
	}
	s.stop()
}
