package monitoring

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"go.yaml.in/yaml/v3"
)

// fires reports whether an alert of routers fires within half an hour of series, which are
// in the notation of promtool.
func fires(t *testing.T, alert, series string) bool {
	t.Helper()
	raw, err := os.ReadFile("route-alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr, For string }
		}
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	rules := file.Groups[0].Rules
	i := slices.IndexFunc(rules, func(r struct{ Alert, Expr, For string }) bool { return r.Alert == alert })
	if i < 0 {
		t.Fatalf("there is no alert %s", alert)
	}
	lasts, err := time.ParseDuration(rules[i].For)
	if err != nil {
		t.Fatal(err)
	}
	const step = 15 * time.Second
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 100000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})
	defer engine.Close()
	start := time.Unix(0, 0)
	query, err := engine.NewRangeQuery(context.Background(), promqltest.LoadedStorage(t, series), nil, rules[i].Expr, start, start.Add(30*time.Minute), step)
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	result := query.Exec(context.Background())
	matrix, err := result.Matrix()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range matrix {
		since := int64(-1)
		for j, p := range s.Floats {
			if j == 0 || p.T-s.Floats[j-1].T > step.Milliseconds() {
				since = p.T
			}
			if p.T-since >= lasts.Milliseconds() {
				return true
			}
		}
	}
	return false
}

func TestStreamsThatAreCutOnceFire(t *testing.T) {
	if !fires(t, "DreamcoreStreamsAreCut", "load 15s\n dreamcore_route_streams_cut_total{instance=\"a\"} 0x20 7x100\n") {
		t.Error("a cell that ends, and cuts 7 streams, is not told")
	}
	if fires(t, "DreamcoreStreamsAreCut", "load 15s\n dreamcore_route_streams_cut_total{instance=\"a\"} 7x120\n") {
		t.Error("it fires without a cut")
	}
}

func TestOnlyRoutersOfOneClusterAreCompared(t *testing.T) {
	const metric = " dreamcore_route_map_generation"
	for name, other := range map[string]string{"namespace": `{namespace="b",job="route"}`, "job": `{namespace="a",job="other"}`} {
		if fires(t, "DreamcoreRoutersDisagree", "load 15s\n"+metric+`{namespace="a",job="route"} 3x120`+"\n"+metric+other+" 9x120\n") {
			t.Errorf("routers of another %s are compared", name)
		}
	}
	if !fires(t, "DreamcoreRoutersDisagree", "load 15s\n"+metric+`{namespace="a",job="route",instance="1"} 3x120`+"\n"+metric+`{namespace="a",job="route",instance="2"} 4x120`+"\n") {
		t.Error("two routers that differ are not told")
	}
}
