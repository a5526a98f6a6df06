package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sources are what a scrape reads. They must not wait; each may be nil.
type Sources struct {
	Jobs       func() (queued, running int)
	Sandboxes  func() map[string]int // number by state
	WarmAgents func() int
	DiskFree   func() (bytes int64, err error)
	Webhooks   func() (waiting int, oldest time.Time) // oldest is zero if none waits
	Ready      func() map[string]bool                 // whether each check of /readyz passes
	// Exchanged returns when the cell last exchanged its spending with the other ones;
	// shared is false if they have no limits together.
	Exchanged func() (last time.Time, shared bool)
}

// source collects the metrics of Sources.
type source struct{ Sources }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	jobsDesc      = describe("jobs", "Jobs that have not ended.", "state")
	sandboxesDesc = describe("sandboxes", "Sandboxes that exist.", "state")
	agentsDesc    = describe("warm_agents", "Agents that wait for a job.")
	diskDesc      = describe("disk_free_bytes", "Space that jobs can use on the disk of the state directory.")
	backlogDesc   = describe("webhook_backlog", "Webhooks that wait to be delivered.")
	oldestDesc    = describe("webhook_oldest_seconds", "Age of the oldest webhook that waits; 0 if none does.")
	exchangedDesc = describe("spending_exchanged_timestamp_seconds", "When spending was last exchanged with other cells; 0 for never.")
	readyDesc     = describe("ready", "Whether a check of /readyz passes.", "check")
)

// Describe implements prometheus.Collector.
func (s source) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{jobsDesc, sandboxesDesc, agentsDesc, diskDesc, backlogDesc, oldestDesc, exchangedDesc, readyDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s source) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if s.Jobs != nil {
		queued, running := s.Jobs()
		gauge(jobsDesc, float64(queued), "queued")
		gauge(jobsDesc, float64(running), "running")
	}
	if s.Sandboxes != nil {
		for state, n := range s.Sandboxes() {
			gauge(sandboxesDesc, float64(n), state)
		}
	}
	if s.WarmAgents != nil {
		gauge(agentsDesc, float64(s.WarmAgents()))
	}
	if s.DiskFree != nil {
		if free, err := s.DiskFree(); err != nil {
			ch <- prometheus.NewInvalidMetric(diskDesc, err)
		} else {
			gauge(diskDesc, float64(free))
		}
	}
	if s.Webhooks != nil {
		waiting, oldest := s.Webhooks()
		age := 0.0
		if !oldest.IsZero() {
			age = max(time.Since(oldest).Seconds(), 0)
		}
		gauge(backlogDesc, float64(waiting))
		gauge(oldestDesc, age)
	}
	if s.Exchanged != nil {
		if last, shared := s.Exchanged(); last.IsZero() && shared {
			gauge(exchangedDesc, 0)
		} else if shared {
			gauge(exchangedDesc, float64(last.UnixMilli())/1000)
		}
	}
	if s.Ready != nil {
		for check, ok := range s.Ready() {
			v := 0.0
			if ok {
				v = 1
			}
			gauge(readyDesc, v, check)
		}
	}
}
