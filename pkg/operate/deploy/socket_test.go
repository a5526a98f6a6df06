package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func exampleSocket() socketValues {
	return socketValues{Name: SocketName, Addresses: []string{"127.0.0.1:8080", "8081"}}
}

// UPDATE=1 go test ./pkg/operate/deploy rewrites the golden file.
func TestSocketMatchesTheGoldenFile(t *testing.T) {
	m := newMachine(t)
	m.opts.Settings.Listen, m.opts.Settings.PreviewListen = "127.0.0.1:8080", "0.0.0.0:8081"
	got := string(m.mustPlan().socketContent())
	if d := cmp.Diff(string(render("socket", exampleSocket())), got); d != "" {
		t.Error(d)
	}
	file := filepath.Join("testdata", SocketName)
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
		t.Error(d)
	}
}

func TestStreamAddress(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:8080":     "127.0.0.1:8080",
		"localhost:8080":     "127.0.0.1:8080",
		"0.0.0.0:80":         "80",
		":80":                "80",
		"[::]:80":            "80",
		"[::1]:80":           "[::1]:80",
		"[fe80::1%eth0]:80":  "[fe80::1%%eth0]:80",
		"[fe80::1%e\n0]:80":  "",
		"games.local:8080":   "",
		"127.0.0.1":          "",
		"127.0.0.1 \n x:999": "",
	} {
		got, err := streamAddress(listen)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", listen, got, err)
		}
	}
}

func TestANameThatSystemdCannotOpenIsRefused(t *testing.T) {
	for _, change := range []func(*Settings){
		func(s *Settings) { s.Listen = "games.local:8080" },
		func(s *Settings) { s.PreviewListen = "games.local:8080" },
	} {
		m := newMachine(t)
		change(&m.opts.Settings)
		if _, err := m.plan(); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.ReasonOf(err) != ReasonListen {
			t.Errorf("%v", err)
		}
	}
}

// A port that the kernel picks is no address to wait at.
func TestAFreePortForPreviewsIsLeftToTheService(t *testing.T) {
	m := newMachine(t)
	m.opts.Settings.PreviewListen = "127.0.0.1:0"
	m.mustDeploy()
	if got := strings.Count(m.read(SocketFile), "ListenStream="); got != 1 {
		t.Errorf("%d sockets", got)
	}
}

// systemd opens the sockets again exactly when it must: connections are refused
// meanwhile.
func TestSocketsStayOpenUnlessTheyHaveToChange(t *testing.T) {
	const stop = "systemctl stop dreamcore.socket dreamcore.service"
	for name, tt := range map[string]struct {
		change func(m *machine)
		stops  bool
	}{
		"another program": {func(m *machine) { m.writeExe("\x7fELF program two") }, false},
		"another unit":    {func(m *machine) { m.opts.Settings.Grace *= 2 }, false},
		"stopped service": {func(m *machine) { m.active = false }, false},
		"nothing is open": {func(m *machine) { m.active, m.bound = false, "" }, false},
		"another address": {func(m *machine) { m.opts.Settings.PreviewListen = "127.0.0.1:8081" }, true},
		"a service of its own, from before there was a socket": {func(m *machine) {
			m.bound = ""
			if err := os.Remove(m.host(SocketFile)); err != nil {
				m.t.Fatal(err)
			}
			m.write("/var/lib/dreamcore/deployed", "sha256:0\n")
		}, true},
		"interrupted after the socket unit was written": {func(m *machine) {
			m.bound = "old"
			_, rest, _ := strings.Cut(m.read("/var/lib/dreamcore/deployed"), "\n")
			m.write("/var/lib/dreamcore/deployed", "socket sha256:0\n"+rest)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.mustDeploy()
			m.ran = nil
			tt.change(m)
			steps, err := m.mustPlan().Preview(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if shown := slices.Contains(steps[len(steps)-1].Item.Commands, stop); shown != tt.stops {
				t.Errorf("the preview shows a stop: %v", shown)
			}
			m.mustDeploy()
			if stopped := slices.Contains(m.ran, stop); stopped != tt.stops {
				t.Errorf("ran %v", m.ran)
			}
			if m.bound != m.read(SocketFile) || !m.active {
				t.Errorf("the sockets are those of:\n%s", m.bound)
			}
			if again := done(m.mustDeploy()); again != nil {
				t.Errorf("and again: %v", again)
			}
		})
	}
}

func (m *machine) writeExe(content string) {
	m.t.Helper()
	if err := os.WriteFile(m.opts.Exe, []byte(content), 0o700); err != nil {
		m.t.Fatal(err)
	}
}
