package route

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of one scrape.
const (
	maxScrapes  = 4
	scrapeLimit = 10 * time.Second
)

// metrics are those of a router. No label names a user or a cell: every label has a
// bounded number of values.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	refused  *prometheus.CounterVec
	heldTime prometheus.Histogram
	streams  prometheus.Gauge
	cut      prometheus.Counter
	redials  prometheus.Counter

	sourceFailures prometheus.Counter
}

const namespace, subsystem = "dreamcore", "route"

func newMetrics(rt *Router) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "requests_total", Help: "Requests to the router."}, []string{"endpoint", "status"}),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "refused_total", Help: "Requests for which no cell could be asked."}, []string{"fault"}),
		heldTime: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Subsystem: subsystem, Name: "hold_seconds", Help: "How long requests waited for their cell.", Buckets: []float64{0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300}}),
		streams:  prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: "streams", Help: "Streams of events that are open."}),
		cut:      prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "streams_cut_total", Help: "Streams that were cut because their cell went away."}),
		redials:  prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "unreachable_total", Help: "Connections to cells that could not be made."}),

		sourceFailures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: subsystem, Name: "source_failures_total", Help: "Failures to learn of the cells from Kubernetes."}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Subsystem: subsystem, Name: name, Help: help}, value)
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "build_info", Help: "The version that runs; always 1."}, []string{"version"})
	build.WithLabelValues(rt.cfg.Version).Set(1)
	m.registry.MustRegister(
		m.requests, m.refused, m.heldTime, m.streams, m.cut, m.redials, m.sourceFailures, build,
		gauge("held", "Requests that wait for their cell.", func() float64 { return float64(rt.holds.now()) }),
		gauge("map_generation", "The generation of the map of cells.", func() float64 { g, _, _ := rt.cfg.Table.state(); return float64(g) }),
		gauge("cells", "Cells of the map.", func() float64 { _, n, _ := rt.cfg.Table.state(); return float64(n) }),
		gauge("cells_serving", "Cells that serve and can be reached.", func() float64 { _, _, n := rt.cfg.Table.state(); return float64(n) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: scrapeLimit, Registry: m.registry})
}

// request counts a request. The endpoint is one of the table of endpoints, or "" for a
// prompt endpoint or an unknown address.
func (m *metrics) request(endpoint string, status int) {
	class := "none"
	if status >= 100 && status < 600 {
		class = string(rune('0'+status/100)) + "xx"
	}
	m.requests.WithLabelValues(endpoint, class).Inc()
}
