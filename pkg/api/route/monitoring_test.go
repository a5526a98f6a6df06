package route

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/notef-neighbor/dreamcore/pkg/api/metrics/metricstest"
)

const monitoring = "../../../testdata/monitoring/"

// metricLabels returns the metrics of a router, as they are queried, with their labels.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	rt := New(Config{Table: NewTable(), Version: "1", Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(rt.Close)
	rt.metrics.request("health", http.StatusOK)
	rt.metrics.refused.WithLabelValues("away").Inc()
	families, err := rt.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		if f.GetType().String() != "HISTOGRAM" {
			all[f.GetName()] = labels
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			all[f.GetName()+suffix] = append(labels, "le")
		}
	}
	return all
}

// queried returns the metrics in an expression, which must exist with their labels.
func queried(t *testing.T, expression string, known map[string][]string) (used []string) {
	t.Helper()
	for _, q := range metricstest.Queries(t, expression) {
		labels, ok := known[q.Metric]
		if used = append(used, q.Metric); !ok {
			t.Errorf("%s: there is no metric %q", expression, q.Metric)
		}
		for _, l := range q.Labels {
			if !slices.Contains(labels, l) {
				t.Errorf("%s: %s has no label %s", expression, q.Metric, l)
			}
		}
	}
	return used
}

func TestTheDashboardOfRoutersShowsEveryMetric(t *testing.T) {
	raw, err := os.ReadFile(monitoring + "route-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	known, shown := metricLabels(t), map[string]bool{}
	for i, p := range dashboard.Panels {
		if p.Title == "" || p.ID != i+1 || p.GridPos.X+p.GridPos.W > 24 || len(p.Targets) == 0 {
			t.Errorf("panel %d %q is wrong", p.ID, p.Title)
		}
		for _, target := range p.Targets {
			for _, name := range queried(t, target.Expr, known) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	for name := range known {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, namespace+"_") && !shown[base] {
			t.Errorf("%s is not shown", name)
		}
	}
}

func TestTheAlertsOfRoutersAreRules(t *testing.T) {
	raw, err := os.ReadFile(monitoring + "route-alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	known, seen := metricLabels(t), map[string]bool{}
	page, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			queried(t, r.Expr, known)
			if _, err := time.ParseDuration(r.For); err != nil || seen[r.Alert] || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %q: %v", r.Alert, err)
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			seen[r.Alert] = true
		}
	}
	for _, name := range regexp.MustCompile("`(Dreamcore[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1) {
		if !seen[name[1]] {
			t.Errorf("the page names an alert %s that does not exist", name[1])
		}
	}
	if len(seen) < 5 {
		t.Errorf("%d alerts", len(seen))
	}
}
