package deploy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
)

// load is a Request.Load that knows two settings: a file has lines of the form
// KEY VALUE.
func load(file string, _ []string, flags map[string]any) (Settings, error) {
	s := Settings{State: "/default", Listen: "127.0.0.1:8080", Upstream: upstream.DefaultAddress, Runtime: "gvisor", UID: 10000, GID: 10000}
	raw, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "listen":
			s.Listen = value
		case "broken":
			return s, errors.New("broken")
		}
	}
	for key, to := range map[string]*string{"state": &s.State, "listen": &s.Listen} {
		if v, ok := flags[key].(string); ok {
			*to = v
		}
	}
	return s, nil
}

func TestANewConfigurationHasFlagsAndEnvironmentWithoutDefaults(t *testing.T) {
	r := Request{
		Load: load, Flags: map[string]any{"listen": "0.0.0.0:80"},
		Options: Options{
			Root: t.TempDir(), KeyFile: "key",
			Environ: []string{"DREAMCORE_TOOLS=Read", "DREAMCORE_STATE=/x", "DREAMCORE_TEST_X=1", "DREAMCORE_CPUS=", "HOME=/root"},
		},
	}
	o, err := r.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	want := Settings{State: DefaultState, Listen: "0.0.0.0:80", UID: 10000, GID: 10000, More: map[string]string{"tools": "Read"}}
	if diff := cmp.Diff(want, o.Settings); diff != "" {
		t.Error(diff)
	}
	if !o.FreeIDs || !filepath.IsAbs(o.KeyFile) || !filepath.IsAbs(o.Exe) {
		t.Errorf("%+v", o)
	}
	if err := os.MkdirAll(filepath.Join(r.Root, DefaultState, volumesDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if o, err := r.Resolve(); err != nil || o.FreeIDs {
		t.Errorf("the ids of existing volumes may change: %v", err)
	}
	r.Root, r.Environ = t.TempDir(), append(r.Environ, "DREAMCORE_SANDBOX_UID=5")
	if o, err := r.Resolve(); err != nil || o.FreeIDs {
		t.Errorf("ids of the environment may change: %v", err)
	}
}

func TestAnExistingConfigurationDecides(t *testing.T) {
	for name, tt := range map[string]struct {
		file, content string
		request       Request
		config        string // content of the new configuration
		fails         dreamcore.Reason
	}{
		"installed":            {ConfigFile, "listen 1.2.3.4:5\n", Request{}, "", ""},
		"adopted":              {"/srv/config.yaml", "listen 1.2.3.4:5\n", Request{State: "/srv"}, "listen 1.2.3.4:5\n\nstate: \"/srv\"\n", ""},
		"the same flag":        {ConfigFile, "listen 1.2.3.4:5\n", Request{Flags: map[string]any{"listen": "1.2.3.4:5"}}, "", ""},
		"another flag":         {ConfigFile, "listen 1.2.3.4:5\n", Request{Flags: map[string]any{"listen": "0.0.0.0:1"}}, "", ReasonSettings},
		"another state":        {ConfigFile, "", Request{State: "/srv", StateGiven: true}, "", ReasonSettings},
		"state by environment": {ConfigFile, "listen 1.2.3.4:5\n", Request{State: "/srv"}, "", ""},
	} {
		r := tt.request
		r.Root, r.Load = t.TempDir(), load
		host := filepath.Join(r.Root, tt.file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(host), 0o755), os.WriteFile(host, []byte(tt.content), 0o600)); err != nil {
			t.Fatal(err)
		}
		o, err := r.Resolve()
		if dreamcore.ReasonOf(err) != tt.fails || tt.fails == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (o.Settings.Listen != "1.2.3.4:5" || string(o.Config) != tt.config) {
			t.Errorf("%s: %+v, %q", name, o.Settings, o.Config)
		}
	}
	r := Request{Options: Options{Root: t.TempDir()}, Load: load}
	host := filepath.Join(r.Root, ConfigFile)
	if err := errors.Join(os.MkdirAll(filepath.Dir(host), 0o755), os.WriteFile(host, []byte("broken\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(); err == nil {
		t.Error("an invalid configuration is accepted")
	}
}
