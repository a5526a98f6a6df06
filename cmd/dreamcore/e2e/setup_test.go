package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestSetupTwiceChangesNothing(t *testing.T) {
	h := newHost(t)
	secret := h.must("secret", "show", "modal-internal-secret")
	if !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(secret) {
		t.Errorf("the internal secret is %q, not 32 bytes in hex", secret)
	}
	var again struct {
		Steps []struct{ Name, Status string }
		Made  string `json:"internal_secret"`
	}
	if err := json.Unmarshal([]byte(h.must("setup", "--yes", "--json")), &again); err != nil {
		t.Fatal(err)
	}
	for _, s := range again.Steps {
		if s.Status != "exists" && s.Name != "secret anthropic-api-key" {
			t.Errorf("the second run: %s %s", s.Name, s.Status)
		}
	}
	if again.Made != "" || h.must("secret", "show", "modal-internal-secret") != secret {
		t.Error("the second run made another internal secret")
	}
	for _, name := range []string{"volume dreamcore-data", "volume dreamcore-global", "agent"} {
		if !strings.Contains(h.must("setup", "--yes"), name) {
			t.Errorf("setup does not tell of %s", name)
		}
	}
}

func TestSetupTakesAndRotatesTheKey(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("sk-first-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	show := func() string { return strings.TrimSpace(h.must("secret", "show", "anthropic-api-key")) }
	if out := h.must("setup", "--yes", "--anthropic-key-file", file); strings.Contains(out, "sk-first-key") {
		t.Error("setup prints the key")
	}
	if show() != "sk-first-key" {
		t.Errorf("the key is %q", show())
	}
	h.env = append(h.env, "ANTHROPIC_API_KEY=sk-second-key")
	h.must("setup", "--yes")
	if show() != "sk-first-key" {
		t.Error("a second setup replaced the key without being asked to")
	}
	h.must("setup", "--yes", "--rotate", "anthropic-api-key")
	if show() != "sk-second-key" {
		t.Errorf("after rotation the key is %q", show())
	}
	sealed, err := os.ReadFile(filepath.Join(h.state, "secrets", "anthropic-api-key.age"))
	if err != nil || strings.Contains(string(sealed), "sk-second-key") {
		t.Errorf("the key is not sealed on disk: %v", err)
	}
	for _, name := range []string{"secrets/identity", "secrets/anthropic-api-key.age"} {
		if fi, err := os.Stat(filepath.Join(h.state, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, fi.Mode(), err)
		}
	}
}

func TestSetupRotatesTheInternalSecretAndKeepsTheOldOneValid(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	old := s.secret
	h.must("setup", "--yes", "--rotate", "modal-internal-secret")
	now := strings.TrimSpace(h.must("secret", "show", "modal-internal-secret", "MODAL_INTERNAL_SECRET"))
	if now == old {
		t.Fatal("the secret is the same after the rotation")
	}
	waitFor(t, "the new secret to be valid", func() bool {
		code, _ := s.object("/test_auth", "", "X-Modal-Secret", now)
		return code == 200
	})
	if code, _ := s.object("/test_auth", "", "X-Modal-Secret", old); code != 200 {
		t.Errorf("the old secret: status %d", code)
	}
}

func TestSecretsInTheFormOfTheOldTool(t *testing.T) {
	h := newHost(t)
	h.must("secret", "create", "weather-api", "WEATHER_KEY=abc", "WEATHER_URL=http://x")
	if r := h.runIn("from standard input\n", "secret", "create", "other", "KEY=-"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if got := h.must("secret", "show", "other"); got != "from standard input\n" {
		t.Errorf("secret from standard input: %q", got)
	}
	if got := h.must("secret", "show", "weather-api"); got != "WEATHER_KEY=abc\nWEATHER_URL=http://x\n" {
		t.Errorf("secret show: %q", got)
	}
	if r := h.run("secret", "create", "weather-api", "A=b"); r.code == 0 || !strings.Contains(r.stderr, "--force") && !strings.Contains(r.stderr, "exists") {
		t.Errorf("creating it again: %d %s", r.code, r.stderr)
	}
	if list := h.must("secret", "list"); !strings.Contains(list, "weather-api") || strings.Contains(list, "abc") {
		t.Errorf("secret list: %s", list)
	}
	h.must("secret", "delete", "weather-api", "--yes")
	if r := h.run("secret", "show", "weather-api"); r.code != 1 || !strings.Contains(r.stderr, "→") {
		t.Errorf("a deleted secret: %d %s", r.code, r.stderr)
	}
	h.must("volume", "create", "my-volume")
	if list := h.must("volume", "list"); !strings.Contains(list, "my-volume") || !strings.Contains(list, "dreamcore-data") {
		t.Errorf("volume list: %s", list)
	}
}

func TestCommandsRefuseWithTheCommandThatFixesIt(t *testing.T) {
	h := newHost(t)
	empty := emptyHost(t)
	readOnly := emptyHost(t)
	readOnly.state = "/proc/nowhere"
	readOnly.env = append(readOnly.env, "DREAMCORE_STATE=/proc/nowhere")
	noAgent := newHost(t)
	if err := os.Remove(filepath.Join(noAgent.state, "agent", "agent.json")); err != nil {
		t.Fatal(err)
	}
	busy := newHost(t).serve("--model-script", "demo")
	for _, tt := range []struct {
		name string
		h    *host
		args []string
		code int
		says []string
	}{
		{"serve before setup", empty, []string{"serve"}, 1, []string{"dreamcore setup"}},
		{"serve without a key", h, []string{"serve"}, 1, []string{"key", "dreamcore setup --anthropic-key-file"}},
		{"serve without the agent", noAgent, []string{"serve", "--model-script", "demo"}, 1, []string{"agent", "dreamcore setup"}},
		{"generate before setup", empty, []string{"generate", "a game"}, 1, []string{"dreamcore setup"}},
		{"a second server", busy.h, []string{"serve", "--model-script", "demo", "--listen", "127.0.0.1:0"}, 1, []string{"another server", busy.url, "--state"}},
		{"a state directory that cannot be written", readOnly, []string{"setup", "--yes"}, 1, []string{"cannot be written", "--state"}},
		{"a port in use", h, []string{"serve", "--model-script", "demo", "--listen", strings.TrimPrefix(busy.url, "http://")}, 1, []string{"--listen"}},
		{"a script that is missing", h, []string{"serve", "--model-script", "/no/such/file"}, 2, []string{"script"}},
		{"an empty prompt", h, []string{"generate", "  "}, 2, []string{"prompt is required"}},
		{"a project that is no UUID", h, []string{"generate", "x", "--project", "../../etc"}, 2, []string{"project_id", "UUID"}},
		{"an unknown flag", h, []string{"serve", "--port", "1"}, 2, []string{"--port", "--help"}},
		{"an unknown command", h, []string{"frobnicate"}, 2, []string{"frobnicate"}},
		{"an unknown gate", h, []string{"gate", "speed"}, 2, []string{"speed", "sandbox-io"}},
		{"no gate", h, []string{"gate"}, 2, []string{"--all"}},
		{"an unknown engine", h, []string{"serve", "--model-script", "demo", "--runtime", "docker"}, 2, []string{"docker", "gvisor"}},
		{"an endpoint that is none", h, []string{"gate", "--all", "--endpoint", "ftp://x"}, 2, []string{"http"}},
		{"no server", h, []string{"gate", "--all", "--endpoint", "http://127.0.0.1:1"}, 3, []string{"health"}},
		{"a wrong secret", busy.h, []string{"generate", "x", "--endpoint", busy.url, "--secret-file", "/etc/hostname"}, 4, []string{"secret"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.h.t = t
			r := tt.h.run(tt.args...)
			if r.code != tt.code {
				t.Errorf("exit code %d, want %d", r.code, tt.code)
			}
			for _, s := range tt.says {
				if !strings.Contains(r.stderr+r.stdout, s) {
					t.Errorf("it does not say %q:\n%s%s", s, r.stdout, r.stderr)
				}
			}
		})
	}
}

func TestUnknownSettingsAreRefused(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct{ name, file, env, says string }{
		{"in the file", "timeuot: 5m\n", "", "timeuot"},
		{"in the environment", "", "DREAMCORE_TIMEUOT=5m", "DREAMCORE_TIMEUOT"},
		{"a bare number as duration", "timeout: 300\n", "", "unit"},
		{"several faults at once", "memory_mib: 3\nlanguage: fr\n", "", "language"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.t = t
			env := h.env
			defer func() { h.env = env }()
			if tt.env != "" {
				h.env = append(h.env, tt.env)
			}
			if err := os.WriteFile(filepath.Join(h.state, "config.yaml"), []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := h.run("serve", "--model-script", "demo"); r.code != 2 || !strings.Contains(r.stderr, tt.says) {
				t.Errorf("exit code %d:\n%s", r.code, r.stderr)
			}
		})
	}
}
