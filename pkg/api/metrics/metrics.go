// Package metrics shows Prometheus what the service does. Durations are in
// seconds, sizes in bytes, and no label names a user, a project or a job: every
// label has a bounded number of values.
//
// metrics.go has the metrics and the methods that feed them, source.go those that
// are read when Prometheus asks. testdata/monitoring has a dashboard and alerts
// that use them.
package metrics

import (
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const namespace = "dreamcore"

// Limits of one scrape.
const (
	maxScrapes  = 4 // at once
	scrapeLimit = 10 * time.Second
)

// maxValues bounds the values of a label that the configuration or a client
// chooses; further ones are counted as Other.
const maxValues = 64

// Other replaces the values of a label beyond its bound.
const Other = "other"

// Metrics is the state of all metrics. Its methods are safe for concurrent use; a
// nil *Metrics counts nothing.
type Metrics struct {
	registry *prometheus.Registry

	jobs      *prometheus.CounterVec
	wait      prometheus.Histogram
	firstWord prometheus.Histogram
	duration  *prometheus.HistogramVec

	starts    *prometheus.CounterVec
	startTime prometheus.Histogram
	agents    *prometheus.CounterVec

	model     *prometheus.CounterVec
	modelTime *prometheus.HistogramVec
	tokens    *prometheus.CounterVec
	dollars   prometheus.Counter

	webhooks    *prometheus.CounterVec
	webhookTime prometheus.Histogram

	requests *prometheus.CounterVec
	build    *prometheus.GaugeVec

	codes, upstreams, endpoints bounded
}

// New returns metrics that read s at each scrape.
func New(s Sources) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.jobs = m.counters("jobs_total", "Jobs that have ended.", "state", "code")
	m.wait = m.histogram("job_wait_seconds", "How long jobs waited in the queue.", 0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1800)
	m.firstWord = m.histogram("job_first_word_seconds", "From the request to the agent's first word.", 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
	m.duration = m.histograms("job_duration_seconds", "From the start of jobs to their end.", "state", 5, 15, 30, 60, 120, 180, 240, 300, 600, 1200)
	m.starts = m.counters("sandbox_starts_total", "Starts of sandboxes.", "outcome")
	m.startTime = m.histogram("sandbox_start_seconds", "How long starts of sandboxes took.", 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 10, 30)
	m.agents = m.counters("agent_starts_total", "Agents of jobs, by how the job got its agent.", "start")
	m.model = m.counters("model_requests_total", "Requests to the model API.", "upstream", "outcome")
	m.modelTime = m.histograms("model_answer_seconds", "From a request to the model API to the first byte of its answer.", "upstream", 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
	m.tokens = m.counters("model_tokens_total", "Tokens of the model that were used.", "kind")
	m.dollars = m.counter("model_cost_dollars_total", "US dollars that the model has cost, by the configured prices.")
	m.webhooks = m.counters("webhook_attempts_total", "Attempts to deliver webhooks, and messages that were given up.", "outcome")
	m.webhookTime = m.histogram("webhook_attempt_seconds", "How long attempts to deliver webhooks took.", 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15)
	m.requests = m.counters("http_requests_total", "Requests to the HTTP API.", "endpoint", "status")
	m.build = m.gauges("build_info", "The version that runs; always 1.", "version")
	m.registry.MustRegister(source{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// SetVersion sets the version of the program.
func (m *Metrics) SetVersion(version string) { m.build.WithLabelValues(version).Set(1) }

// Handler returns the handler that Prometheus scrapes.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeLimit,
		ErrorHandling: promhttp.ContinueOnError, Registry: m.registry, // what cannot be read is missing, and counted
	})
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) histogram(name, help string, buckets ...float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) histograms(name, help, label string, buckets ...float64) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, []string{label})
	m.registry.MustRegister(h)
	return h
}

// bounded is a set of values of a label. The zero value is empty.
type bounded struct {
	mu     sync.Mutex
	values map[string]bool // guarded by mu
}

// value returns v, or Other if there are too many values.
func (b *bounded) value(v string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.values[v] {
		return v
	}
	if len(b.values) >= maxValues || len(v) > 64 {
		return Other
	}
	if b.values == nil {
		b.values = map[string]bool{}
	}
	b.values[v] = true
	return v
}

// Job has the figures of a job that has ended. A duration that is not known is
// negative.
type Job struct {
	State string // of dreamcore.JobState
	Code  string // of dreamcore.FailureCode; "" if it succeeded

	Waited    time.Duration // in the queue
	FirstWord time.Duration // from the request to the agent's first word
	Lasted    time.Duration // from its start to its end
}

// JobEnded counts a job.
func (m *Metrics) JobEnded(j Job) {
	if m == nil {
		return
	}
	m.jobs.WithLabelValues(j.State, m.codes.value(j.Code)).Inc()
	observe(m.wait, j.Waited)
	observe(m.firstWord, j.FirstWord)
	observe(m.duration.WithLabelValues(j.State), j.Lasted)
}

// SandboxStarted counts the start of a sandbox.
func (m *Metrics) SandboxStarted(took time.Duration, err error) {
	if m == nil {
		return
	}
	if err != nil {
		m.starts.WithLabelValues("failed").Inc()
		return
	}
	m.starts.WithLabelValues("started").Inc()
	observe(m.startTime, took)
}

// AgentStarted counts how a job got its agent.
func (m *Metrics) AgentStarted(how string) {
	if m == nil {
		return
	}
	m.agents.WithLabelValues(how).Inc()
}

// ModelOutcome is what became of a request to the model API.
type ModelOutcome string

// Outcomes of requests to the model API.
const (
	ModelAnswered    ModelOutcome = "answered"
	ModelRefused     ModelOutcome = "refused"     // a status of 4xx
	ModelOverloaded  ModelOutcome = "overloaded"  // 429 or 529
	ModelFailed      ModelOutcome = "failed"      // another status
	ModelUnreachable ModelOutcome = "unreachable" // no answer
	ModelCancelled   ModelOutcome = "cancelled"   // by the client, before an answer
)

// ModelRequest counts a request to the model API. The upstream is "" if none has
// answered.
func (m *Metrics) ModelRequest(upstream string, outcome ModelOutcome, took time.Duration) {
	if m == nil {
		return
	}
	name := m.upstreams.value(upstream)
	m.model.WithLabelValues(name, string(outcome)).Inc()
	if outcome == ModelAnswered {
		observe(m.modelTime.WithLabelValues(name), took)
	}
}

// Spent is what the model has used.
type Spent struct {
	Input, Output, CacheRead, CacheWrite int64 // tokens
	Dollars                              float64
}

// ModelSpent counts tokens and dollars.
func (m *Metrics) ModelSpent(s Spent) {
	if m == nil {
		return
	}
	for kind, n := range map[string]int64{"input": s.Input, "output": s.Output, "cache_read": s.CacheRead, "cache_write": s.CacheWrite} {
		m.tokens.WithLabelValues(kind).Add(float64(max(n, 0)))
	}
	m.dollars.Add(max(s.Dollars, 0))
}

// WebhookAttempt counts an attempt to deliver a webhook; outcome is one of
// webhook.Outcome. A message that is given up takes no time.
func (m *Metrics) WebhookAttempt(outcome string, took time.Duration) {
	if m == nil {
		return
	}
	m.webhooks.WithLabelValues(outcome).Inc()
	if took > 0 {
		observe(m.webhookTime, took)
	}
}

// Request counts a request to the HTTP API. The endpoint is "" for an unknown
// address; the status is 0 if the connection was cut before an answer.
func (m *Metrics) Request(endpoint string, status int) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(m.endpoints.value(endpoint), statusClass(status)).Inc()
}

func statusClass(status int) string {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return map[int]string{401: "401", 429: "429", 503: "503"}[status]
	case status >= 200 && status < 600:
		return string(rune('0'+status/100)) + "xx"
	}
	return "none"
}

func observe(h prometheus.Observer, d time.Duration) {
	if d >= 0 {
		h.Observe(d.Seconds())
	}
}
