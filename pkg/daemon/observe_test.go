package daemon

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/metrics"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
)

func TestSigningKeysOfWebhooks(t *testing.T) {
	const key1, key2 = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3", "whsec_enl4d3Z1dHNycXBvbm1sa2ppaGdmZWRj"
	s := testState(t, nil)
	store, _, err := s.CreateSecrets()
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range map[string]map[string]string{
		"hook": {"NEW": key1, "OLD": key2}, "bad": {"KEY": "no-signing-key"},
	} {
		if err := store.Create(name, values, false); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string][]string{
		"hook": {key1, key2}, "hook/OLD": {key2}, "hook/GONE": nil, "hook/": nil, "bad": nil, "gone": nil,
	} {
		got, err := s.signingKeys(ref)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
		if err != nil && (dreamcore.ReasonOf(err) != ReasonWebhook || strings.Contains(err.Error(), "no-signing-key")) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if s.Redactor.Redact(key1) == key1 {
		t.Error("a signing key is not hidden")
	}
	if err := s.checkWebhooks([]webhook.Entry{{Secret: "hook"}, {Secret: "gone"}}); err == nil {
		t.Error("a webhook without its key is accepted")
	}
}

// observed returns an observer with metrics, and what Prometheus reads.
func observed() (o *observer, scrape func() string) {
	o = &observer{metrics: metrics.New(metrics.Sources{})}
	return o, func() string {
		w := httptest.NewRecorder()
		o.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Body.String()
	}
}

// sender is an upstream that answers with a status, or fails.
type sender struct {
	status int
	err    error
}

func (s sender) Send(context.Context, gateway.Call) (*gateway.Answer, error) {
	if s.err != nil {
		return nil, s.err
	}
	return &gateway.Answer{Response: &http.Response{StatusCode: s.status, Body: http.NoBody, ContentLength: -1}, Upstream: "vendor"}, nil
}

func TestAnswersOfTheModelAreObserved(t *testing.T) {
	o, scrape := observed()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	send := func(ctx context.Context, s sender) {
		answer, err := observedUpstream{s, o}.Send(ctx, gateway.Call{})
		if err == nil {
			_ = answer.Body.Close()
		}
	}
	for _, status := range []int{200, 429, 529, 400, 401, 500, 302} {
		send(t.Context(), sender{status: status})
	}
	send(t.Context(), sender{err: gateway.ErrNoCredential})
	send(cancelled, sender{err: context.Canceled})
	if err := o.upstream.failed(1); err != nil {
		t.Errorf("an upstream that answers counts as unreachable: %v", err)
	}
	for range upstreamFailures {
		send(t.Context(), sender{err: errors.New("connection refused")})
	}
	send(cancelled, sender{err: context.Canceled}) // says nothing
	if err := o.upstream.failed(upstreamFailures); err == nil || !o.upstream.stale(time.Hour) {
		t.Errorf("an upstream that cannot be reached counts as reachable: %v", err)
	}
	text := scrape()
	for _, want := range []string{
		`outcome="answered",upstream="vendor"} 1`, `outcome="overloaded",upstream="vendor"} 2`, `outcome="refused",upstream="vendor"} 2`,
		`outcome="failed",upstream="vendor"} 2`, `outcome="unreachable",upstream=""} 3`, `outcome="refused",upstream=""} 1`, `outcome="cancelled",upstream=""} 2`,
	} {
		if !strings.Contains(text, "dreamcore_model_requests_total{"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	send(t.Context(), sender{status: 500})
	if err := o.upstream.failed(1); err != nil || o.upstream.stale(time.Hour) {
		t.Errorf("after an answer: %v", err)
	}
}

// starter starts no sandboxes.
type starter struct{ err error }

func (s starter) Create(context.Context, sandbox.Spec) (sandbox.Sandbox, error) { return nil, s.err }

func TestStartsOfSandboxesAreObserved(t *testing.T) {
	o, scrape := observed()
	start := func(ctx context.Context, err error) {
		_, _ = observedSandboxes{starter{err}, o}.Create(ctx, sandbox.Spec{})
	}
	if !o.sandboxes.stale(time.Hour) {
		t.Error("sandboxes that were never started are not probed")
	}
	start(t.Context(), nil)
	start(t.Context(), errors.New("no"))
	if err := o.sandboxes.failed(sandboxFailures); err != nil {
		t.Errorf("one failure counts: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	start(cancelled, context.Canceled)
	start(t.Context(), errors.New("no"))
	if err := o.sandboxes.failed(sandboxFailures); err == nil {
		t.Error("sandboxes that do not start count as working")
	}
	if text := scrape(); !strings.Contains(text, `dreamcore_sandbox_starts_total{outcome="failed"} 2`) || !strings.Contains(text, `{outcome="started"} 1`) {
		t.Error("the starts are not counted")
	}
}

func TestJobsAndSpendingAreObserved(t *testing.T) {
	o, scrape := observed()
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	o.jobEnded(dreamcore.Job{
		State: dreamcore.JobSucceeded, Created: at, Started: at.Add(2 * time.Second), FirstWord: at.Add(5 * time.Second), Ended: at.Add(62 * time.Second),
	})
	o.jobEnded(dreamcore.Job{State: dreamcore.JobCancelled, Code: dreamcore.FailCLITerminated, Created: at, Ended: at.Add(time.Second)}) // in the queue
	o.spent(usage.Record{Input: 1, Output: 2, CacheRead: 3, CacheWrite: 4, CacheWrite1h: 5, Cost: 250_000_000})
	text := scrape()
	for _, want := range []string{
		`dreamcore_jobs_total{code="CLI_TERMINATED",state="cancelled"} 1`,
		`dreamcore_job_wait_seconds_sum 2`, `dreamcore_job_wait_seconds_count 1`, `dreamcore_job_first_word_seconds_sum 5`,
		`dreamcore_job_duration_seconds_sum{state="succeeded"} 60`,
		`dreamcore_model_tokens_total{kind="cache_write"} 9`, `dreamcore_model_cost_dollars_total 0.25`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
}

func TestSpaceForJobs(t *testing.T) {
	s := testState(t, nil)
	all, err := s.freeForJobs()
	if err != nil || all <= 0 {
		t.Fatal(all, err)
	}
	full := testState(t, func(c *config.Config) { c.MinFreeDiskMiB = 1 << 30 })
	if n, err := full.freeForJobs(); n != 0 || err != nil {
		t.Errorf("%d, %v on a disk without room for jobs", n, err)
	}
}
