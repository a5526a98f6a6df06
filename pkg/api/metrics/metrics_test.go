package metrics

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// filled returns metrics that all have a value.
func filled(version string) *Metrics {
	m := New(Sources{
		Jobs:       func() (int, int) { return 3, 2 },
		Sandboxes:  func() map[string]int { return map[string]int{"idle": 4, "spare": 1} },
		WarmAgents: func() int { return 5 },
		DiskFree:   func() (int64, error) { return 5 << 30, nil },
		Webhooks:   func() (int, time.Time) { return 6, time.Now().Add(-time.Hour) },
		Exchanged:  func() (time.Time, bool) { return time.UnixMilli(1_700_000_000_500), true },
		Ready:      func() map[string]bool { return map[string]bool{"disk": true, "queue": false} },
	})
	m.SetVersion(version)
	m.JobEnded(Job{State: "succeeded", Waited: time.Second, FirstWord: 3 * time.Second, Lasted: time.Minute})
	m.JobEnded(Job{State: "failed", Code: "CLI_TIMEOUT", Waited: -1, FirstWord: -1, Lasted: 5 * time.Minute})
	m.SandboxStarted(100*time.Millisecond, nil)
	m.SandboxStarted(time.Second, errors.New("no"))
	m.AgentStarted("warm")
	m.ModelRequest("anthropic", ModelAnswered, 1500*time.Millisecond)
	m.ModelRequest("", ModelUnreachable, time.Second)
	m.ModelSpent(Spent{Input: 10, Output: 20, CacheRead: 30, CacheWrite: 40, Dollars: 0.5})
	m.WebhookAttempt("delivered", 20*time.Millisecond)
	m.WebhookAttempt("dropped", 0)
	m.Request("generate_game", 200)
	m.Request("", 404)
	return m
}

// scrape returns what Prometheus reads.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetricsAreShown(t *testing.T) {
	text := scrape(t, filled("1.2.3"))
	for _, want := range []string{
		`dreamcore_build_info{version="1.2.3"} 1`,
		`dreamcore_jobs_total{code="",state="succeeded"} 1`,
		`dreamcore_jobs_total{code="CLI_TIMEOUT",state="failed"} 1`,
		`dreamcore_jobs{state="queued"} 3`, `dreamcore_jobs{state="running"} 2`,
		`dreamcore_job_wait_seconds_sum 1`, `dreamcore_job_wait_seconds_count 1`, // unknown durations are not counted
		`dreamcore_job_first_word_seconds_sum 3`,
		`dreamcore_job_duration_seconds_sum{state="failed"} 300`,
		`dreamcore_sandbox_starts_total{outcome="failed"} 1`, `dreamcore_sandbox_start_seconds_count 1`,
		`dreamcore_sandboxes{state="idle"} 4`, `dreamcore_warm_agents 5`, `dreamcore_agent_starts_total{start="warm"} 1`,
		`dreamcore_model_requests_total{outcome="unreachable",upstream=""} 1`,
		`dreamcore_model_answer_seconds_sum{upstream="anthropic"} 1.5`,
		`dreamcore_model_tokens_total{kind="cache_write"} 40`, `dreamcore_model_cost_dollars_total 0.5`,
		`dreamcore_disk_free_bytes 5.36870912e+09`,
		`dreamcore_webhook_backlog 6`, `dreamcore_webhook_attempts_total{outcome="dropped"} 1`, `dreamcore_webhook_attempt_seconds_count 1`,
		`dreamcore_http_requests_total{endpoint="",status="4xx"} 1`,
		`dreamcore_spending_exchanged_timestamp_seconds 1.7000000005e+09`,
		`dreamcore_ready{check="queue"} 0`, `dreamcore_ready{check="disk"} 1`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	if !regexp.MustCompile(`\ndreamcore_webhook_oldest_seconds 36\d\d\.`).MatchString(text) {
		t.Error("the age of the oldest webhook is missing")
	}
}

func TestMetricsFollowTheConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(filled("1").registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestLabelsAreBounded(t *testing.T) {
	m := New(Sources{})
	for i := range 10_000 {
		m.JobEnded(Job{State: "failed", Code: fmt.Sprint("CODE_", i)})
		m.ModelRequest(fmt.Sprint("upstream-", i), ModelAnswered, time.Second)
		m.Request(fmt.Sprint("endpoint_", i), i%1000)
	}
	m.Request(strings.Repeat("x", 1000), 200)
	text := scrape(t, m)
	for name, most := range map[string]int{
		"dreamcore_jobs_total{": maxValues + 1, "dreamcore_model_requests_total{": maxValues + 1,
		"dreamcore_http_requests_total{": (maxValues + 1) * 8,
	} {
		if n := strings.Count(text, "\n"+name); n > most || n < maxValues {
			t.Errorf("%s has %d series", name, n)
		}
	}
	if !strings.Contains(text, `code="other"`) {
		t.Error("what is beyond the bound is not counted")
	}
}

func TestNothingIsCountedWithoutMetrics(t *testing.T) {
	var m *Metrics
	m.JobEnded(Job{})
	m.SandboxStarted(0, nil)
	m.ModelRequest("", ModelFailed, 0)
	m.ModelSpent(Spent{})
	m.WebhookAttempt("failed", 0)
	m.Request("", 0)
}

// The other metrics say why: dreamcore_ready{check="disk"} is 0.
func TestADiskThatCannotBeReadHidesNoOtherMetric(t *testing.T) {
	m := New(Sources{DiskFree: func() (int64, error) { return 0, errors.New("gone") }, Jobs: func() (int, int) { return 3, 2 }})
	h := m.Handler()
	for range 2 { // a scrape has the errors of those before it
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		text := w.Body.String()
		if w.Code != 200 || !strings.Contains(text, `dreamcore_jobs{state="queued"} 3`) || strings.Contains(text, "dreamcore_disk_free_bytes") {
			t.Fatalf("status %d: %s", w.Code, text)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(w.Body.String(), `promhttp_metric_handler_errors_total{cause="gathering"} 2`) {
		t.Errorf("%s", w.Body)
	}
}
