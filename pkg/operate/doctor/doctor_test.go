package doctor

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestFindingsReportFaultsAndFixes(t *testing.T) {
	ran := []string{}
	check := func(name string, err error, needs ...string) Check {
		return Check{Name: name, Needs: needs, Run: func(context.Context) (string, error) {
			ran = append(ran, name)
			return "saw " + name, err
		}}
	}
	r := Run(t.Context(), []Check{
		check("good", nil),
		check("poor", concern("", "so so", "do this")),
		check("bad", &dreamcore.Error{Message: "broken", Hint: "fix that", Err: errors.New("cause")}),
		check("needs good", nil, "good", "poor"),
		check("needs bad", nil, "good", "bad"),
		check("needs a skipped one", nil, "needs bad"),
	}, Hooks{Hint: dreamcore.HintOf})
	if r.Healthy {
		t.Error("healthy with a failed check")
	}
	want := []Finding{
		{Name: "good", Status: OK, Detail: "saw good"},
		{Name: "poor", Status: Warn, Detail: "so so", Fix: "do this"},
		{Name: "bad", Status: Fail, Detail: "broken: cause", Fix: "fix that"},
		{Name: "needs good", Status: OK, Detail: "saw needs good"},
		{Name: "needs bad", Status: Skipped, Detail: "not checked, because of: bad"},
		{Name: "needs a skipped one", Status: Skipped, Detail: "not checked, because of: needs bad"},
	}
	for i := range r.Findings {
		r.Findings[i].Seconds = 0
	}
	if !slices.Equal(r.Findings, want) {
		t.Errorf("got %+v", r.Findings)
	}
	if !slices.Equal(ran, []string{"good", "poor", "bad", "needs good"}) {
		t.Errorf("ran %v", ran)
	}
	if r := Run(t.Context(), []Check{check("poor", concern("", "", ""))}, Hooks{Hint: dreamcore.HintOf}); !r.Healthy {
		t.Error("a warning counts as a failure")
	}
}

func TestKernelReleases(t *testing.T) {
	for release, want := range map[string]string{
		"6.1.0-13-amd64": "", "4.14.0": "", "4.9.1": "too old", "3.10.0-1160.el7": "too old",
		"6.18.44-fc": "faulty", "7.2.0": "", "weird": "unknown form", "6": "unknown form",
	} {
		detail, err := judgeKernel(release, "x86_64")
		text := detail
		if err != nil {
			text = err.Error()
		}
		if want != "" && !strings.Contains(text, want) || want == "" && (err != nil || strings.Contains(text, "faulty")) {
			t.Errorf("%s: %q, %v", release, detail, err)
		}
	}
}

func TestMachineChecksReportWhatIsMissing(t *testing.T) {
	_, err := root(1000, []string{"memory", "CPU"})
	if c, ok := errors.AsType[*Concern](err); !ok || !strings.Contains(c.Error(), "CPU") || dreamcore.ReasonOf(err) != ReasonNotRoot {
		t.Errorf("not root: %v", err)
	}
	if _, err := namespaces(t.TempDir()); err == nil || !strings.Contains(err.Error(), "user") {
		t.Errorf("no namespaces: %v", err)
	}
	if _, err := clock(time.Unix(0, 0)); err == nil {
		t.Error("a clock of 1970 is accepted")
	}
	if d, err := diskSpace(filepath.Join(t.TempDir(), "not", "yet")); d == "" && err == nil {
		t.Error("the disk of a directory that does not exist yet was not inspected")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var concern *Concern
	if _, err := port(t.Context(), ln.Addr().String()); !errors.As(err, &concern) {
		t.Errorf("a port in use: %v", err)
	}
	if _, err := port(t.Context(), "nonsense"); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("no address: %v", err)
	}
}

func TestEveryMachineCheckAnswersHere(t *testing.T) {
	hooks := Hooks{Hint: func(err error) string { return string(dreamcore.ReasonOf(err)) + dreamcore.HintOf(err) }}
	for _, f := range Run(t.Context(), Machine(Needs{State: t.TempDir(), Listen: "127.0.0.1:0", Sandboxes: 1}), hooks).Findings {
		if f.Detail == "" || f.Status == Fail && f.Fix == "" {
			t.Errorf("%+v", f)
		}
	}
}

func TestFewProcessesAreAConcern(t *testing.T) {
	if detail, err := processes(32768, 32); err != nil || !strings.Contains(detail, "597") {
		t.Errorf("%q, %v", detail, err)
	}
	if _, err := processes(1000, 32); err == nil || !strings.Contains(dreamcore.HintOf(err), "pid_max") {
		t.Errorf("%v", err)
	}
	if _, err := processes(0, 32); err != nil {
		t.Error(err)
	}
}
