package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sealedHost returns an installation with one sealed secret and nothing else.
func sealedHost(t *testing.T) *host {
	h := emptyHost(t)
	if r := h.runIn(canary, "secret", "create", "anthropic-api-key", "ANTHROPIC_API_KEY=-"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	return h
}

func TestEachFaultOfTheSecretsHasAHint(t *testing.T) {
	const sealed, identity = "secrets/anthropic-api-key.age", "secrets/identity"
	write := func(name, text string) func(*testing.T, *host) {
		return func(t *testing.T, h *host) {
			if err := os.WriteFile(filepath.Join(h.state, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	must := func(do func(path string) error, name string) func(*testing.T, *host) {
		return func(t *testing.T, h *host) {
			if err := do(filepath.Join(h.state, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mode := func(m os.FileMode) func(string) error { return func(p string) error { return os.Chmod(p, m) } }
	stranger := func(p string) error { return os.Chown(p, strangerID, strangerID) }
	variable := func(value string) func(*testing.T, *host) {
		return func(_ *testing.T, h *host) { h.env = append(h.env, value) }
	}
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *host)
		code int
		says []string // the last is of the hint; STATE stands for the directory
	}{
		{"a lost identity", must(os.Remove, identity), 1, []string{"identity STATE/secrets/identity is lost: 1 sealed", "dreamcore setup"}},
		{"a damaged identity", write(identity, "# AGE-SECRET-KEY-1 no key\n"), 1, []string{"identity STATE/secrets/identity is damaged", "install -m 600 BACKUP STATE/secrets/identity"}},
		{"an identity for everybody", must(mode(0o644), identity), 1, []string{"open to other users (mode 0644)", "chmod 600 STATE/secrets/identity"}},
		{"an identity of somebody else", must(stranger, identity), 1, []string{"belongs to another user", "chown 0 STATE/secrets/identity"}},
		{"a directory for the group", must(mode(0o750), "secrets"), 1, []string{"open to other users (mode 0750)", "chmod 700 STATE/secrets"}},
		{"a directory of somebody else", must(stranger, "secrets"), 1, []string{"belongs to another user", "chown -R 0 STATE/secrets"}},
		{"a sealed file that is cut", must(func(p string) error { return os.Truncate(p, 150) }, sealed), 1, []string{"anthropic-api-key is damaged", "dreamcore secret delete anthropic-api-key, then dreamcore setup"}},
		{"a file that is not sealed", write(sealed, canary), 1, []string{"anthropic-api-key is damaged", "dreamcore secret delete"}},
		{"a sealed file for everybody", must(mode(0o644), sealed), 1, []string{"open to other users (mode 0644)", "chmod 600 STATE/" + sealed}},
		{"a sealed file of somebody else", must(stranger, sealed), 1, []string{"belongs to another user", "chown 0 STATE/" + sealed}},
		{"a secret of another identity", func(t *testing.T, h *host) {
			other := emptyHost(t)
			other.must("secret", "create", "x", "A=some-value")
			raw, err := os.ReadFile(filepath.Join(other.state, identity))
			if err != nil {
				t.Fatal(err)
			}
			write(identity, string(raw))(t, h)
		}, 1, []string{"sealed for another identity", "dreamcore secret delete anthropic-api-key, then dreamcore setup"}},
		{"no file where one is named", variable("DREAMCORE_IDENTITY_FILE=/nowhere/identity"), 1, []string{"/nowhere/identity does not exist", "install -m 600"}},
		{"a directory where a file is named", variable("DREAMCORE_IDENTITY_FILE=/usr"), 1, []string{"not a regular file", "ls -ld /usr"}},
		{"a variable that is no identity", variable("DREAMCORE_IDENTITY=" + canary), 1, []string{"in the environment is damaged", `DREAMCORE_IDENTITY="$(cat FILE)"`}},
		{"two identities", func(t *testing.T, h *host) {
			h.env = append(h.env, "DREAMCORE_IDENTITY_FILE=/nowhere/identity", "DREAMCORE_IDENTITY=x")
		}, 2, []string{"given twice", "unset DREAMCORE_IDENTITY"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := sealedHost(t)
			tt.do(t, h)
			for _, args := range [][]string{{"secret", "show", "anthropic-api-key"}, {"generate", "a game"}} {
				r := h.run(args...)
				if r.code != tt.code && args[0] == "secret" || r.code == 0 || args[0] == "secret" && r.stdout != "" {
					t.Errorf("%q: exit code %d\n%s", args, r.code, r.stdout)
				}
				if args[0] == "generate" {
					continue // what it needs first may be another thing; it must not tell the key
				}
				_, hint, _ := strings.Cut(r.stderr, "→")
				for i, s := range tt.says {
					where := strings.Join(strings.Fields(r.stderr), " ")
					if i == len(tt.says)-1 {
						where = strings.Join(strings.Fields(hint), " ")
					}
					if s = strings.ReplaceAll(s, "STATE", h.state); !strings.Contains(where, s) {
						t.Errorf("%q does not say %q:\n%s", args, s, r.stderr)
					}
				}
			}
		})
	}
}

func TestIdentityFromEnvironmentOrFile(t *testing.T) {
	h := sealedHost(t)
	here := filepath.Join(h.state, "secrets/identity")
	raw, err := os.ReadFile(here)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "identity")
	if err := os.Rename(here, elsewhere); err != nil {
		t.Fatal(err)
	}
	credentials := t.TempDir()
	if err := os.WriteFile(filepath.Join(credentials, "dreamcore-identity"), raw, 0o400); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	env := h.env
	for _, v := range []string{
		"DREAMCORE_IDENTITY_FILE=" + elsewhere, "CREDENTIALS_DIRECTORY=" + credentials,
		"DREAMCORE_IDENTITY=" + string(raw), "DREAMCORE_IDENTITY=" + lines[len(lines)-1],
	} {
		h.env = append(env[:len(env):len(env)], v)
		if got := h.must("secret", "show", "anthropic-api-key"); got != canary+"\n" {
			t.Errorf("%s: %q", v[:20], got)
		}
		h.must("secret", "create", "--force", "other", "A=some-value")
		if _, err := os.Stat(here); err == nil {
			t.Errorf("%s: an identity was written", v[:20])
		}
	}
	h.env = env
	if r := h.run("secret", "show", "anthropic-api-key"); r.code != 1 || !strings.Contains(r.stderr, "is lost") {
		t.Errorf("without any: %d %s", r.code, r.stderr)
	}
}

// Secrets in the environment are wiped first, and no child process inherits them.
func TestSecretsOfTheEnvironmentAreWiped(t *testing.T) {
	h := newHost(t)
	here := filepath.Join(h.state, "secrets/identity")
	raw, err := os.ReadFile(here)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(here); err != nil {
		t.Fatal(err)
	}
	key := string(raw[strings.Index(string(raw), "AGE-SECRET-KEY-"):])
	h.env = append(h.env, "DREAMCORE_IDENTITY="+key, "ANTHROPIC_API_KEY="+canary, "MODAL_INTERNAL_SECRET="+strings.Repeat(canary, 2), "LAST=one")
	s := h.serve("--model-script", "demo")
	if got := s.events("/generate_game", generateBody(alice, project, "a snake game")); got[len(got)-1]["type"] != "done" {
		t.Fatalf("%v", got[len(got)-1])
	}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.cmd.Process.Pid))
	if err != nil || !strings.Contains(string(own), "\x00ANTHROPIC_API_KEY=\x00\x00") || !strings.HasSuffix(string(own), "LAST=one\x00") {
		t.Errorf("the environment of the service: %q, %v", own, err)
	}
	seen := 0
	for _, p := range processesOf(t, h.exe) { // the sandbox of the user is warm
		dir := filepath.Dir(strings.TrimPrefix(p, "process "))
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it is over
		}
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		seen++
		for _, secret := range []string{strings.TrimSpace(key), canary} {
			if strings.Contains(string(environ)+string(args), secret) {
				t.Errorf("%s (%q) has a secret", dir, args)
			}
		}
	}
	if seen < 3 { // service, reader of crashes, sentry
		t.Errorf("%d processes are no proof", seen)
	}
	s.stop()
}

func TestRotationKeepsTheOldSecretUntilFinished(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	old := s.secret
	h.must("secret", "rotate")
	now := strings.TrimSpace(h.must("secret", "show", "modal-internal-secret", "MODAL_INTERNAL_SECRET"))
	valid := func(value string) bool {
		code, _ := s.object("/test_auth", "", "X-Modal-Secret", value)
		return code == 200
	}
	waitFor(t, "the new secret to be valid", func() bool { return valid(now) })
	if now == old || !valid(old) {
		t.Error("the old secret is not valid any more")
	}
	if out := h.must("secret", "rotate", "--finish", "--json"); !strings.Contains(out, `"finished":true`) {
		t.Errorf("finish: %s", out)
	}
	waitFor(t, "the old secret to be refused", func() bool { return !valid(old) })
	if !valid(now) {
		t.Error("the new secret is not valid any more")
	}
	if out := h.must("secret", "rotate", "--finish"); !strings.Contains(out, "no rotation") {
		t.Errorf("finish again: %s", out)
	}
	if r := emptyHost(t).run("secret", "rotate"); r.code != 1 || !strings.Contains(r.stderr, "dreamcore setup") {
		t.Errorf("before setup: %d %s", r.code, r.stderr)
	}
}

// A dying service prints its stack without secrets. SIGQUIT makes the runtime print
// it.
func TestADyingServicePrintsItsStack(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.cmd.Process.Pid))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0 bytes") {
		t.Errorf("core dumps are not forbidden: %v\n%s", err, limits)
	}
	if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	if out := s.log.String(); !strings.Contains(out, "SIGQUIT: quit") || !strings.Contains(out, "goroutine 1 ") || strings.Contains(out, s.secret) {
		t.Errorf("%s", out)
	}
	h.serve("--model-script", "demo").stop() // sweeps
}
