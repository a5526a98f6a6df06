package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type doctorReport struct {
	Healthy  bool
	Findings []struct{ Name, Status, Detail, Fix string }
}

func (h *host) doctor(code int) doctorReport {
	h.t.Helper()
	r := h.run("doctor", "--json", "--listen", "127.0.0.1:0")
	var report doctorReport
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != code {
		h.t.Fatalf("exit code %d, %v\n%s\n%s", r.code, err, r.stdout, r.stderr)
	}
	return report
}

func TestDoctorTriesEverythingForReal(t *testing.T) {
	h := newHost(t)
	report := h.doctor(0)
	status := map[string]string{}
	for _, f := range report.Findings {
		status[f.Name] = f.Status
	}
	for _, name := range []string{"kernel", "root", "cgroups", "namespaces", "clock", "port", "secrets", "sandbox", "isolation", "agent", "agent in a sandbox"} {
		if status[name] != "ok" {
			t.Errorf("%s: %q in %+v", name, status[name], report.Findings)
		}
	}
	if !report.Healthy || status["model"] != "warn" {
		t.Errorf("without a key: healthy %v, model %q", report.Healthy, status["model"])
	}
}

func TestDoctorNamesTheFix(t *testing.T) {
	h := newHost(t)
	if err := os.Remove(filepath.Join(h.state, "agent", "agent.json")); err != nil {
		t.Fatal(err)
	}
	report := h.doctor(1)
	found := false
	for _, f := range report.Findings {
		switch f.Name {
		case "agent":
			found = f.Status == "fail" && strings.HasSuffix(f.Fix, "run: dreamcore setup")
		case "agent in a sandbox":
			if f.Status != "skipped" {
				t.Errorf("%+v", f)
			}
		}
	}
	if !found || report.Healthy {
		t.Errorf("%+v", report)
	}
}
