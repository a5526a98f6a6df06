package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/deploy"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// runDeployWith runs the command with environ instead of the environment of this process.
func runDeployWith(t *testing.T, environ []string, args ...string) (*bytes.Buffer, error) {
	t.Helper()
	io, out, _ := term.Buffers("")
	a := &app{io: io, environ: environ, env: config.ReadEnvironment(environ), redactor: &secret.Redactor{}, flags: map[string]any{}}
	root := newRootCmd(a)
	root.SetArgs(append([]string{"deploy"}, args...))
	return out, root.ExecuteContext(t.Context())
}

func TestDeployDryRunPrintsFilesAndCommandsAndChangesNothing(t *testing.T) {
	dir := t.TempDir()
	out, err := runDeployWith(t, nil, "--dry-run", "--root", dir, "--listen", "0.0.0.0:9000")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ExecStart=/usr/local/bin/dreamcore serve", `listen: "0.0.0.0:9000"`, "create", "0600 root:root"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not print %q:\n%s", want, out)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
	// On this machine it shows the commands too, even if systemd does not run.
	out, err = runDeployWith(t, nil, "--dry-run", "--state", "/var/lib/dreamcore-of-a-test")
	if os.Geteuid() == 0 && (err != nil || !strings.Contains(out.String(), "$ systemctl restart dreamcore.service")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDeployBelowARootIsIdempotentAndKeepsTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	environ := []string{"DREAMCORE_MEMORY_MIB=1024", "DREAMCORE_TOOLS=Read,Write", "ANTHROPIC_BASE_URL=http://gateway.test"}
	var first, second deploy.Result
	for _, r := range []*deploy.Result{&first, &second} {
		out, err := runDeployWith(t, environ, "--root", dir, "--json", "--model-script", "demo")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), r); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		environ = nil // the second time the file has the settings
	}
	if !first.Changed || second.Changed {
		t.Errorf("changed: %v, then %v: %v", first.Changed, second.Changed, second.Steps)
	}
	file := filepath.Join(dir, deploy.ConfigFile)
	cfg, err := config.Load(config.Sources{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MemoryMiB != 1024 || len(cfg.Tools) != 2 || cfg.Upstream != "http://gateway.test" || cfg.ModelScript != "demo" || cfg.State != "/var/lib/dreamcore" {
		t.Errorf("the service would run with %+v", cfg)
	}
	_, err = runDeployWith(t, nil, "--root", dir, "--listen", "0.0.0.0:1234")
	if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), file) {
		t.Errorf("a flag that has no effect: %v", err)
	}
}

func TestDeployAdoptsTheConfigurationOfTheStateDirectory(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "srv/games/config.yaml")
	if err := os.MkdirAll(filepath.Dir(old), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, []byte("# mine\nlisten: 127.0.0.1:7777"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := runDeployWith(t, nil, "--root", dir, "--state", "/srv/games"); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, deploy.ConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	if want := "# mine\nlisten: 127.0.0.1:7777\nstate: \"/srv/games\"\n"; string(raw) != want {
		t.Errorf("it is %q", raw)
	}
	if to, err := os.Readlink(old); err != nil || to != deploy.ConfigFile {
		t.Errorf("the state directory has a link to %q, %v", to, err)
	}
}

func TestDeployRefusesInvalidArguments(t *testing.T) {
	for name, args := range map[string][]string{
		"a configuration of its own": {"--config", "/x"},
		"a state in a home":          {"--state", "/home/me/state"},
		"an argument":                {"now"},
		"an unknown flag":            {"--now"},
		"a key for an image":         {"--root", t.TempDir(), "--anthropic-key-file", "-"},
	} {
		if _, err := runDeployWith(t, nil, append(args, "--dry-run")...); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
			t.Errorf("%s: error %v, hint %q", name, err, dreamcore.HintOf(err))
		}
	}
}

func TestDeployAcceptsTheEngineAndTheImage(t *testing.T) {
	dir := t.TempDir()
	if _, err := runDeployWith(t, nil, "--root", dir, "--runtime", "runc", "--image", "debian:12"); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Sources{File: filepath.Join(dir, deploy.ConfigFile)})
	if err != nil || cfg.Runtime != "runc" || cfg.Image != "debian:12" {
		t.Errorf("the service would run with %+v, %v", cfg, err)
	}
	unit, err := os.ReadFile(filepath.Join(dir, deploy.UnitFile))
	if err != nil || !strings.Contains(string(unit), "AF_NETLINK") || strings.Contains(string(unit), "gVisor") {
		t.Errorf("the unit is for another engine: %v\n%s", err, unit)
	}
	for name, args := range map[string][]string{
		"another engine than the configuration's": {"--root", dir, "--runtime", "gvisor"},
		"an unknown engine":                       {"--root", t.TempDir(), "--runtime", "docker"},
		"an image in a home":                      {"--root", t.TempDir(), "--image", "oci-layout:/home/me/image"},
		"an image and a root":                     {"--root", t.TempDir(), "--image", "debian:12", "--rootfs", "/srv/root"},
	} {
		if _, err := runDeployWith(t, nil, args...); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeployPrintsManifestsForKubernetes(t *testing.T) {
	out, err := runDeployWith(t, nil, "--kubernetes", "--image", "registry.example.com/dreamcore:1", "--model-script", "demo")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kind: StatefulSet", `image: "registry.example.com/dreamcore:1"`, `DREAMCORE_MODEL_SCRIPT: "demo"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not print %q:\n%s", want, out)
		}
	}
	for _, args := range [][]string{{"--kubernetes"}, {"--kubernetes", "--image", "a", "--listen", "0.0.0.0:1"}, {"--cells", "3"}} {
		if out, err := runDeployWith(t, nil, args...); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}
