package deploy

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func exampleUnit(sealed bool) unitValues {
	v := unitValues{
		Name: UnitName, Socket: SocketName, Program: ProgramFile, Config: ConfigFile, Environment: EnvironmentFile,
		State: "/var/lib/dreamcore", Credential: "dreamcore-identity", Sealed: sealed,
		Identity: "/etc/dreamcore/dreamcore-identity", StopSeconds: 105,
	}
	if sealed {
		v.Identity += encryptedSuffix
	}
	return v
}

func runcUnit() unitValues {
	v := exampleUnit(true)
	v.Runc = true
	return v
}

// UPDATE=1 go test ./pkg/operate/deploy rewrites the golden files.
func TestUnitMatchesTheGoldenFile(t *testing.T) {
	for name, v := range map[string]unitValues{"plain.service": exampleUnit(false), "sealed.service": exampleUnit(true), "runc.service": runcUnit()} {
		file := filepath.Join("testdata", name)
		got := string(render("service", v))
		if os.Getenv("UPDATE") == "1" {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestUnitOfAPlanMatchesTheGoldenFile(t *testing.T) {
	m := newMachine(t)
	m.mustDeploy()
	if d := cmp.Diff(string(render("service", exampleUnit(true))), m.read(UnitFile)); d != "" {
		t.Error(d)
	}
}

func TestOnlyTheUnitForRuncHasItsCapabilities(t *testing.T) {
	for runtime, want := range map[string]string{
		"": string(render("service", exampleUnit(true))), "gvisor": string(render("service", exampleUnit(true))), "runc": string(render("service", runcUnit())),
	} {
		m := newMachine(t)
		m.opts.Settings.Runtime = runtime
		m.mustDeploy()
		if d := cmp.Diff(want, m.read(UnitFile)); d != "" {
			t.Errorf("%q: %s", runtime, d)
		}
	}
}

func TestSystemdVerifiesTheUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	sandboxtest.Need(t, err == nil, "systemd-analyze")
	for name, v := range map[string]unitValues{"plain": exampleUnit(false), "sealed": exampleUnit(true), "runc": runcUnit()} {
		t.Run(name, func(t *testing.T) {
			v.Program = "/bin/true" // systemd-analyze requires that it exists
			file := filepath.Join(t.TempDir(), UnitName)
			if err := os.WriteFile(file, render("service", v), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(filepath.Dir(file), SocketName), render("socket", exampleSocket()), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
			if err != nil || strings.Contains(string(out), UnitName) || strings.Contains(string(out), SocketName) {
				t.Errorf("%v\n%s", err, out)
			}
			threshold := "--threshold=45"
			if v.Runc {
				threshold = "--threshold=52" // runc needs three more capabilities
			}
			out, err = exec.Command(analyze, "security", "--offline=yes", threshold, file).CombinedOutput()
			if err != nil && !strings.Contains(string(out), "unrecognized option") {
				t.Errorf("the unit is less hardened than it was: %v\n%s", err, out)
			}
		})
	}
}

func TestServiceThatDoesNotStartIsReportedWithItsLog(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(m *machine)
		want   string
	}{
		"it ends": {func(m *machine) { m.sub = "auto-restart" }, "activating (exit-code)"},
		"systemd refuses": {func(m *machine) {
			m.fail["systemctl restart"] = &CommandError{Stderr: "Job failed", Err: errors.New("exit status 1")}
		}, "Job failed"},
		"it does not answer": {func(m *machine) { m.opts.Settings.Listen = freePort(m.t) }, "did not answer within"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			tc.change(m)
			p := m.mustPlan()
			p.limit = 300 * time.Millisecond
			_, err := p.Run(t.Context(), begin, finish)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v", err)
			}
			var e *dreamcore.Error
			if !errors.As(err, &e) || e.Err == nil || !strings.Contains(e.Err.Error(), "the cause in the log") || e.Hint == "" {
				t.Errorf("it does not show the log: %#v", e)
			}
			if _, err := os.Stat(m.host("/var/lib/dreamcore/" + stampName)); err == nil {
				t.Error("it counts as started")
			}
		})
	}
}

func TestAnotherServiceOnThePortIsNotTakenForOurs(t *testing.T) {
	for name, change := range map[string]func(m *machine){
		"another program": func(m *machine) { m.app = "nginx" },
		"another version": func(m *machine) { m.version = "0.9" },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			change(m)
			_, err := m.deploy()
			if dreamcore.CodeOf(err) != dreamcore.CodeConflict {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestInterruptedWaitGivesTheReason(t *testing.T) {
	m := newMachine(t)
	m.opts.Settings.Listen = freePort(t)
	p := m.mustPlan()
	reason := errors.New("ctrl-c")
	ctx, cancel := context.WithCancelCause(context.Background())
	inner := p.o.Runner
	p.o.Runner = func(c context.Context, cmd Command) ([]byte, error) {
		if strings.HasPrefix(cmd.String(), "systemctl restart") {
			defer cancel(reason)
		}
		return inner(c, cmd)
	}
	if _, err := p.Run(ctx, begin, finish); !errors.Is(err, reason) {
		t.Errorf("error %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for listen, want := range map[string][2]string{
		"127.0.0.1:8080":   {"http://127.0.0.1:8080", "http://127.0.0.1:8080"},
		"0.0.0.0:80":       {"http://127.0.0.1:80", "http://box:80"},
		":8080":            {"http://127.0.0.1:8080", "http://box:8080"},
		"[::]:8080":        {"http://[::1]:8080", "http://box:8080"},
		"[::1]:8080":       {"http://[::1]:8080", "http://[::1]:8080"},
		"10.1.2.3:9":       {"http://10.1.2.3:9", "http://10.1.2.3:9"},
		"games.local:8080": {"http://games.local:8080", "http://games.local:8080"},
		"127.0.0.1:http":   {},
		"127.0.0.1:0":      {},
		"127.0.0.1:70000":  {},
		"127.0.0.1":        {},
		"":                 {},
	} {
		local, err := address(listen, "")
		others, othersErr := address(listen, "box")
		if got := [2]string{local, others}; got != want || (err == nil) != (local != "") || (othersErr == nil) != (others != "") {
			t.Errorf("%q: %v, %v", listen, got, errors.Join(err, othersErr))
		}
	}
}

func TestOldAndNewClientsAcceptTheWiring(t *testing.T) {
	m := newMachine(t)
	m.opts.Settings.Listen = "0.0.0.0:8080"
	m.opts.Settings.State = "/srv/dreamcore"
	w := m.mustPlan().Wire("box")
	full, ok := strings.CutPrefix(w.Lines[0], "MODAL_ENDPOINT=")
	if !ok {
		t.Fatal(w.Lines)
	}
	// The old client's way to the other endpoints.
	if got := strings.Replace(full, "generate_game", "test-gvisor", 1); got != "http://box:8080/test-gvisor" {
		t.Errorf("an old client would call %s", got)
	}
	ep, err := client.ParseEndpoint(full)
	if err != nil || ep.String() != w.Endpoint {
		t.Errorf("ours would call %v, %v", ep, err)
	}
	if want := "MODAL_INTERNAL_SECRET=$(sudo /usr/local/bin/dreamcore secret show modal-internal-secret MODAL_INTERNAL_SECRET --state /srv/dreamcore)"; w.Lines[1] != want {
		t.Errorf("%s", w.Lines[1])
	}
}
