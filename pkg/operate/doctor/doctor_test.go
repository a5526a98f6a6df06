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

func TestFindingsSayWhatIsWrongAndWhatMendsIt(t *testing.T) {
	ran := []string{}
	check := func(name string, err error, needs ...string) Check {
		return Check{Name: name, Needs: needs, Run: func(context.Context) (string, error) {
			ran = append(ran, name)
			return "saw " + name, err
		}}
	}
	r := Run(t.Context(), []Check{
		check("good", nil),
		check("poor", &Concern{Message: "so so", Fix: "do this"}),
		check("bad", &dreamcore.Error{Message: "broken", Hint: "mend that", Err: errors.New("cause")}),
		check("needs good", nil, "good", "poor"),
		check("needs bad", nil, "good", "bad"),
		check("needs what was skipped", nil, "needs bad"),
	}, nil, nil)
	if r.Healthy {
		t.Error("healthy with a failed check")
	}
	want := []Finding{
		{Name: "good", Status: OK, Detail: "saw good"},
		{Name: "poor", Status: Warn, Detail: "so so", Fix: "do this"},
		{Name: "bad", Status: Fail, Detail: "broken: cause", Fix: "mend that"},
		{Name: "needs good", Status: OK, Detail: "saw needs good"},
		{Name: "needs bad", Status: Skipped, Detail: "not looked at, because of: bad"},
		{Name: "needs what was skipped", Status: Skipped, Detail: "not looked at, because of: needs bad"},
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
	if r := Run(t.Context(), []Check{check("poor", &Concern{})}, nil, nil); !r.Healthy {
		t.Error("a warning is taken for a failure")
	}
}

func TestKernelsAreJudged(t *testing.T) {
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

func TestMachineChecksSeeWhatIsMissing(t *testing.T) {
	_, err := root(1000, []string{"memory", "CPU"})
	if c, ok := errors.AsType[*Concern](err); !ok || !strings.Contains(c.Message, "memory, CPU") || !strings.Contains(c.Fix, "--allow-unlimited") {
		t.Errorf("not root: %v", err)
	}
	if _, err := namespaces(t.TempDir()); err == nil || !strings.Contains(err.Error(), "user") {
		t.Errorf("no namespaces: %v", err)
	}
	if _, err := clock(time.Unix(0, 0)); err == nil {
		t.Error("a clock of 1970 is taken")
	}
	if d, err := disk(filepath.Join(t.TempDir(), "not", "yet")); d == "" && err == nil {
		t.Error("the disk of a directory that is not there yet was not looked at")
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
	for _, f := range Run(t.Context(), Machine(t.TempDir(), "127.0.0.1:0", nil), nil, nil).Findings {
		if f.Detail == "" || f.Status == Fail && f.Fix == "" {
			t.Errorf("%+v", f)
		}
	}
}
