package metrics

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/notef-neighbor/dreamcore/pkg/api/metrics/metricstest"
)

const monitoring = "../../../testdata/monitoring/"

// names returns the names under which metrics can be queried, each with the name
// of its metric.
func names(t *testing.T) map[string]string {
	t.Helper()
	families, err := filled("1").registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, f := range families {
		name := f.GetName()
		if f.GetType().String() != "HISTOGRAM" {
			all[name] = name
			continue
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			all[name+suffix] = name
		}
	}
	return all
}

// labels are the labels of each metric, besides those that Prometheus adds.
func labels(t *testing.T) map[string][]string {
	t.Helper()
	families, err := filled("1").registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, f := range families {
		for _, l := range f.GetMetric()[0].GetLabel() {
			all[f.GetName()] = append(all[f.GetName()], l.GetName())
		}
	}
	return all
}

// query returns the metrics in an expression, which must exist with their labels.
func query(t *testing.T, expression string, known map[string]string, labels map[string][]string) (used []string) {
	t.Helper()
	for _, q := range metricstest.Queries(t, expression) {
		name := known[q.Metric]
		if used = append(used, name); name == "" {
			t.Errorf("%s: there is no metric %q", expression, q.Metric)
		}
		for _, l := range q.Labels {
			if !slices.Contains(labels[name], l) {
				t.Errorf("%s: %s has no label %s", expression, name, l)
			}
		}
	}
	return used
}

func TestTheDashboardShowsEveryMetric(t *testing.T) {
	raw, err := os.ReadFile(monitoring + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title, UID    string
		SchemaVersion int
		Panels        []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	known, labels := names(t), labels(t)
	shown, ids := map[string]bool{}, map[int]bool{}
	for _, p := range dashboard.Panels {
		if p.Title == "" || p.Type == "" || ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || len(p.Targets) == 0 {
			t.Errorf("panel %d %q is wrong", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			for _, name := range query(t, target.Expr, known, labels) {
				shown[name] = true
			}
		}
	}
	for _, name := range known {
		if strings.HasPrefix(name, namespace+"_") && !shown[name] {
			t.Errorf("%s is not shown", name)
		}
	}
}

// rules is the format of Prometheus' rule files; unknown members are errors there
// too.
type rules struct {
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

func TestTheAlertsAreRules(t *testing.T) {
	raw, err := os.ReadFile(monitoring + "alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file rules
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	known, labels, seen := names(t), labels(t), map[string]bool{}
	name := regexp.MustCompile(`^Dreamcore[A-Z][A-Za-z]+$`)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if !name.MatchString(r.Alert) || seen[r.Alert] || g.Name == "" {
				t.Errorf("alert %q in group %q", r.Alert, g.Name)
			}
			seen[r.Alert] = true
			query(t, r.Expr, known, labels)
			if r.For != "" {
				if _, err := time.ParseDuration(r.For); err != nil {
					t.Errorf("%s: %v", r.Alert, err)
				}
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s: severity %q", r.Alert, s)
			}
			for _, text := range []string{r.Annotations["summary"], r.Annotations["description"]} {
				checkText(t, r.Alert, text)
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("%d alerts", len(seen))
	}
}

// checkText parses a text as Prometheus does, which defines $labels and $value.
func checkText(t *testing.T, alert, text string) {
	t.Helper()
	same := func(v any) any { return v }
	functions := template.FuncMap{"humanize": same, "humanize1024": same, "humanizePercentage": same, "humanizeDuration": same}
	_, err := template.New(alert).Funcs(functions).Option("missingkey=error").Parse(`{{$labels := .Labels}}{{$value := .Value}}` + text)
	if err != nil || text == "" {
		t.Errorf("%s: %q: %v", alert, text, err)
	}
}
