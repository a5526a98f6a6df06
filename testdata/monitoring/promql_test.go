// Package monitoring checks the alerts and the dashboard with the parser of Prometheus. It
// is a module of its own: a parser that only a test needs must not decide the versions of
// what the program is built from.
package monitoring

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// parse parses an expression as Prometheus does.
func parse(expression string) error {
	// Grafana replaces its variables before Prometheus sees the expression.
	expression = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".+").Replace(expression)
	_, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	return err
}

func TestPrometheusAcceptsTheAlerts(t *testing.T) {
	for name, least := range map[string]int{"alerts.yaml": 10, "route-alerts.yaml": 5} {
		t.Run(name, func(t *testing.T) { acceptsAlerts(t, name, least) })
	}
}

func acceptsAlerts(t *testing.T, name string, least int) {
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			seen++
			if err := parse(r.Expr); err != nil {
				t.Errorf("%s: %q: %v", r.Alert, r.Expr, err)
			}
		}
	}
	if seen < least {
		t.Errorf("%d alerts", seen)
	}
}

func TestPrometheusAcceptsTheDashboards(t *testing.T) {
	for _, name := range []string{"dashboard.json", "route-dashboard.json"} {
		t.Run(name, func(t *testing.T) { acceptsDashboard(t, name) })
	}
}

func acceptsDashboard(t *testing.T, name string) {
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			seen++
			if err := parse(target.Expr); err != nil {
				t.Errorf("%s: %q: %v", p.Title, target.Expr, err)
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d expressions", seen)
	}
}

// The parser that the tests of the metrics use accepts more than Prometheus.
func TestOnlyPromQLIsAccepted(t *testing.T) {
	for _, expression := range []string{"rate(a)", "sum(a) keep_metric_names", "a default 0", "rate(a[5m]) if b", "WITH (x = a) x"} {
		if parse(expression) == nil {
			t.Errorf("%q is accepted", expression)
		}
	}
}
