// Package metricstest reads the expressions of dashboards and alerts for tests.
package metricstest

import (
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metricsql"
)

// Query is a use of a metric in an expression.
type Query struct {
	Metric string   // "" if the expression names none
	Labels []string // that it compares, besides instance
}

// Queries returns the metrics that an expression of PromQL uses, in order. One that
// cannot be parsed or uses no metric fails the test.
func Queries(t *testing.T, expression string) (all []Query) {
	t.Helper()
	// Grafana replaces its variables before Prometheus sees the expression.
	expression = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".+").Replace(expression)
	parsed, err := metricsql.Parse(expression)
	if err != nil {
		t.Errorf("%s: %v", expression, err)
		return nil
	}
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		m, ok := e.(*metricsql.MetricExpr)
		if !ok {
			return
		}
		for _, filters := range m.LabelFilterss {
			var q Query
			for _, f := range filters {
				switch f.Label {
				case "__name__":
					q.Metric = f.Value
				case "instance":
				default:
					q.Labels = append(q.Labels, f.Label)
				}
			}
			all = append(all, q)
		}
	})
	if len(all) == 0 {
		t.Errorf("%s: no metric", expression)
	}
	return all
}
