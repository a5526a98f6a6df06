package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// machine is a machine to set up: the stores are real, the agent is a dummy program.
type machine struct {
	t       *testing.T
	dir     string
	claude  string
	volumes *volume.Store

	key, source string
	keyErr      error
	asked       int // number of calls of Key

	version  string
	proveErr error
	proven   []string // paths

	rotate []string
	named  bool // --claude
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), version: "1.2.3", source: "the test", named: true}
	m.claude = filepath.Join(t.TempDir(), "claude")
	m.program("\x7fELF agent")
	var err error
	if m.volumes, err = volume.Open(filepath.Join(m.dir, "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.volumes.Close() })
	t.Setenv("PATH", t.TempDir()) // neither claude nor npm
	return m
}

func (m *machine) program(content string) {
	m.t.Helper()
	if err := errors.Join(os.WriteFile(m.claude, []byte(content), 0o700), os.Chmod(m.claude, 0o755)); err != nil {
		m.t.Fatal(err)
	}
}

// run runs setup and returns the steps as "name: status".
func (m *machine) run() (Result, []string, error) {
	m.t.Helper()
	var reported []string
	o := Options{
		State: m.dir, OpenSecrets: m.openSecrets, AgentDir: filepath.Join(m.dir, "agent"), Volumes: m.volumes, Rotate: m.rotate,
		Key: func(context.Context) (string, string, error) {
			m.asked++
			return m.key, m.source, m.keyErr
		},
		Prove: func(_ context.Context, b agent.Binary) (string, error) {
			m.proven = append(m.proven, b.Path)
			return m.version, m.proveErr
		},
		Begin: func(string) {},
		Done:  func(s Step) { reported = append(reported, s.Name+": "+string(s.Status)) },
	}
	if m.named {
		o.Claude = m.claude
	}
	r, err := Run(m.t.Context(), o)
	var steps []string
	for _, s := range r.Steps {
		steps = append(steps, s.Name+": "+string(s.Status))
		if strings.Contains(s.Detail, "sk-") {
			m.t.Errorf("a step shows the key: %+v", s)
		}
	}
	if !slices.Equal(steps, reported) {
		m.t.Errorf("reported %v, result %v", reported, steps)
	}
	return r, steps, err
}

func (m *machine) must() (Result, []string) {
	m.t.Helper()
	r, steps, err := m.run()
	if err != nil {
		m.t.Fatal(err)
	}
	return r, steps
}

func (m *machine) openSecrets() (store *secret.Store, created bool, err error) {
	if created, err = secret.Init(m.secretsDir(), ""); err != nil {
		return nil, false, err
	}
	store, err = secret.Open(m.secretsDir(), "")
	return store, created, err
}

func (m *machine) secretsDir() string { return filepath.Join(m.dir, "secrets") }

func (m *machine) secrets() *secret.Store {
	m.t.Helper()
	s, err := secret.Open(m.secretsDir(), "")
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func (m *machine) stored() string {
	v, err := m.secrets().Value(secret.AnthropicSecret, secret.AnthropicKey)
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		m.t.Fatal(err)
	}
	return v
}

func (m *machine) internal() []string {
	m.t.Helper()
	v, err := m.secrets().InternalValues()
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

func TestTheFirstRunCreatesEverythingAndTheSecondNothing(t *testing.T) {
	m := newMachine(t)
	m.key = "sk-first"
	r, steps := m.must()
	want := []string{
		"identity: created", "secret modal-internal-secret: created", "secret anthropic-api-key: created",
		"volume dreamcore-data: created", "volume dreamcore-global: created", "agent: exists", "agent in a sandbox: checked",
	}
	if !slices.Equal(steps, want) || r.State != m.dir {
		t.Errorf("steps %q, want %q", steps, want)
	}
	if r.InternalSecret == "" || m.internal()[0] != r.InternalSecret || m.stored() != "sk-first" {
		t.Errorf("internal secret %q, stored %q, key %q", r.InternalSecret, m.internal(), m.stored())
	}
	m.named, m.key = false, "sk-second"
	again, steps := m.must()
	for _, s := range steps {
		if !strings.HasSuffix(s, ": exists") {
			t.Errorf("the second run: %s", s)
		}
	}
	if again.InternalSecret != "" || m.internal()[0] != r.InternalSecret || m.stored() != "sk-first" {
		t.Error("the second run changed a secret")
	}
	if m.asked != 1 || len(m.proven) != 1 {
		t.Errorf("asked for the key %d times, proven %d times", m.asked, len(m.proven))
	}
}

func TestASetupWithoutAKey(t *testing.T) {
	m := newMachine(t)
	r, steps := m.must()
	if !slices.Contains(steps, "secret anthropic-api-key: missing") || m.stored() != "" {
		t.Errorf("steps %q", steps)
	}
	if i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Status == Missing }); !strings.Contains(r.Steps[i].Detail, "dreamcore setup --anthropic-key-file") {
		t.Errorf("it does not say how to provide one: %q", r.Steps[i].Detail)
	}
	m.key = "sk-later"
	if _, steps = m.must(); !slices.Contains(steps, "secret anthropic-api-key: created") || m.stored() != "sk-later" {
		t.Errorf("a key that is provided later: %q", steps)
	}
}

func TestPastedKeysAreTrimmed(t *testing.T) {
	for _, tt := range []struct{ key, stored string }{
		{"sk-x", "sk-x"}, {"  sk-x\r\n", "sk-x"}, {" \n\t", ""}, {"sk x", ""}, {"sk-\nx", ""}, {"sk-\x00", ""}, {"sk-\xff", ""},
	} {
		m := newMachine(t)
		m.key = tt.key
		_, _, err := m.run()
		if strings.TrimSpace(tt.key) != "" && tt.stored == "" {
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" || strings.Contains(err.Error(), "sk") {
				t.Errorf("%q: %v", tt.key, err)
			}
		} else if err != nil {
			t.Errorf("%q: %v", tt.key, err)
		}
		if m.stored() != tt.stored {
			t.Errorf("%q is stored as %q, want %q", tt.key, m.stored(), tt.stored)
		}
	}
}

func TestAKeyThatCannotBeRead(t *testing.T) {
	m := newMachine(t)
	m.keyErr = errors.New("no such file")
	if _, steps, err := m.run(); !errors.Is(err, m.keyErr) || len(m.proven) != 0 {
		t.Errorf("%v after %q", err, steps)
	}
}

func TestRotation(t *testing.T) {
	const both = secret.AnthropicSecret + " " + secret.InternalSecret
	for _, tt := range []struct {
		name   string
		before bool // setup has run before, with a key
		rotate string
		key    string
		steps  []string // of the secrets
		fails  string
	}{
		{"the key", true, secret.AnthropicSecret, "sk-new", []string{"modal-internal-secret: exists", "anthropic-api-key: rotated"}, ""},
		{"the internal secret", true, secret.InternalSecret, "sk-new", []string{"anthropic-api-key: exists", "modal-internal-secret: rotated"}, ""},
		{"both", true, both, "sk-new", []string{"anthropic-api-key: rotated", "modal-internal-secret: rotated"}, ""},
		{"a missing secret is created", false, both, "sk-new", []string{"modal-internal-secret: created", "anthropic-api-key: created"}, ""},
		{"without a new key", true, both, "", nil, "no new key"},
		{"with a bad one", true, both, "sk new", nil, "white space"},
		{"an unknown secret", true, "weather-api", "sk-new", nil, "weather-api"},
		{"an unknown one and known ones", true, both + " x", "sk-new", nil, `"x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			if tt.before {
				m.key = "sk-old"
				m.must()
			}
			var old []string
			if tt.before {
				old = m.internal()
			}
			m.key, m.rotate = tt.key, strings.Fields(tt.rotate)
			r, steps, err := m.run()
			if tt.fails != "" {
				if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), tt.fails) || dreamcore.HintOf(err) == "" && dreamcore.ReasonOf(err) == "" {
					t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
				}
				if m.stored() != "sk-old" || !slices.Equal(m.internal(), old) {
					t.Error("a rotation that failed changed something")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range steps {
				if s, ok := strings.CutPrefix(s, "secret "); ok {
					got = append(got, s)
				}
			}
			if !slices.Equal(got, tt.steps) {
				t.Errorf("steps %q, want %q", got, tt.steps)
			}
			now := m.internal()
			rotated := slices.Contains(tt.steps, "modal-internal-secret: rotated")
			if rotated && (len(now) != 2 || now[1] != old[0] || now[0] != r.InternalSecret || now[0] == old[0]) {
				t.Errorf("internal secret: %q before, %q now, %q reported", old, now, r.InternalSecret)
			}
			if tt.before && !rotated && (!slices.Equal(now, old) || r.InternalSecret != "") {
				t.Error("the internal secret was rotated without being asked to")
			}
		})
	}
}

func TestARotationIsNotRepeatedIfALaterStepFails(t *testing.T) {
	m := newMachine(t)
	m.must()
	old := m.internal()[0]
	m.rotate, m.proveErr = []string{secret.InternalSecret}, errors.New("no cgroups")
	for range 3 {
		if _, _, err := m.run(); err == nil {
			t.Fatal("it went well")
		}
	}
	m.proveErr = nil
	m.must()
	if now := m.internal(); len(now) != 2 || now[1] != old {
		t.Errorf("clients with the old secret are locked out: %q before, %q now", old, now)
	}
}

func TestAFailedProofKeepsTheResultsSoFarAndHasAReason(t *testing.T) {
	m := newMachine(t)
	m.key, m.proveErr = "sk-x", errors.New("cgroups are not writable")
	_, steps, err := m.run()
	if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !errors.Is(err, m.proveErr) || dreamcore.ReasonOf(err) != ReasonAgent {
		t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
	}
	if len(steps) != 5 || m.stored() != "sk-x" || len(m.internal()) != 1 {
		t.Errorf("steps %q", steps)
	}
	if infos, err := m.volumes.List(); err != nil || len(infos) != 2 {
		t.Errorf("volumes %v, %v", infos, err)
	}
	if _, err := agent.Recorded(filepath.Join(m.dir, "agent")); err == nil {
		t.Error("an agent that is not proven was recorded")
	}
	// The next run continues from there.
	m.proveErr = nil
	internal := m.internal()[0]
	r, steps := m.must()
	if r.InternalSecret != "" || m.internal()[0] != internal || steps[len(steps)-1] != "agent in a sandbox: checked" {
		t.Errorf("afterwards: %q", steps)
	}
}

func TestAnAgentIsProvenAgainOnlyIfItChanged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(m *machine)
		again  bool
	}{
		{"nothing changed", func(m *machine) { m.named = false }, false},
		{"it is named", func(*machine) {}, true},
		{"the program changed", func(m *machine) { m.program("\x7fELF another agent") }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.must()
			tt.change(m)
			m.version = "4.5.6"
			r, _ := m.must()
			if got := len(m.proven) == 2; got != tt.again {
				t.Errorf("proven %d times", len(m.proven))
			}
			want := map[bool]string{true: "4.5.6", false: "1.2.3"}[tt.again]
			if i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Name == "agent" }); !strings.Contains(r.Steps[i].Detail, want) {
				t.Errorf("the agent is %q", r.Steps[i].Detail)
			}
		})
	}
}

func TestWhichAgentIsUsed(t *testing.T) {
	npm := func(content string) string {
		return "#!/bin/sh\nPATH=/usr/bin:/bin\nwhile [ \"$1\" != --prefix ]; do shift; done\nd=\"$2/node_modules/${3%@*}\"\nmkdir -p \"$d\"; printf '" + content + "' >\"$d/claude\"; chmod 755 \"$d/claude\"\n"
	}
	for _, tt := range []struct {
		name  string
		bin   map[string]string // in the search path
		claim string            // of the agent's step; "" fails
		says  string
	}{
		{"claude in the search path", map[string]string{"claude": "\x7fELF agent"}, "agent: exists", ""},
		{"a script of that name, and npm", map[string]string{"claude": "#!/usr/bin/env node\n", "npm": npm(`\177ELF agent`)}, "agent: installed", ""},
		{"only npm", map[string]string{"npm": npm(`\177ELF agent`)}, "agent: installed", ""},
		{"npm installs something else", map[string]string{"npm": npm(`#!/bin/sh`)}, "", "not installed a program"},
		{"nothing", nil, "", "apt-get install npm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.named = false
			for name, content := range tt.bin {
				file := filepath.Join(os.Getenv("PATH"), name)
				if err := errors.Join(os.WriteFile(file, []byte(content), 0o700), os.Chmod(file, 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			_, steps, err := m.run()
			if tt.claim == "" {
				if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(err.Error()+dreamcore.HintOf(err), tt.says) {
					t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
				}
				return
			}
			if err != nil || !slices.Contains(steps, tt.claim) {
				t.Errorf("%q, %v", steps, err)
			}
		})
	}
}

func TestAProgramThatIsNotAnAgentIsRefused(t *testing.T) {
	m := newMachine(t)
	m.program("#!/bin/sh\n")
	if _, _, err := m.run(); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.ReasonOf(err) != agent.ReasonProgram || len(m.proven) != 0 {
		t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
	}
}

func TestAnInterruptedSetupStopsBetweenSteps(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	_, err := Run(ctx, Options{
		State: m.dir, OpenSecrets: m.openSecrets, AgentDir: filepath.Join(m.dir, "agent"), Volumes: m.volumes, Claude: m.claude,
		Key: func(context.Context) (string, string, error) {
			cancel(interrupted)
			return "", "", nil
		},
		Prove: func(context.Context, agent.Binary) (string, error) {
			t.Error("it went on")
			return "", nil
		},
		Begin: func(string) {}, Done: func(Step) {},
	})
	if !errors.Is(err, interrupted) {
		t.Errorf("%v", err)
	}
}

func TestSecretsWithoutTheirIdentityAreNotReplaced(t *testing.T) {
	m := newMachine(t)
	m.key = "sk-x"
	m.must()
	if err := os.Remove(filepath.Join(m.secretsDir(), "identity")); err != nil {
		t.Fatal(err)
	}
	_, steps, err := m.run()
	if err == nil || len(steps) != 0 || dreamcore.HintOf(err) == "" {
		t.Errorf("%q, %v", steps, err)
	}
}

func TestAnUnknownVersionIsReported(t *testing.T) {
	m := newMachine(t)
	m.version = ""
	r, _ := m.must()
	if s := fmt.Sprint(r.Steps); !strings.Contains(s, "unknown version") {
		t.Error(s)
	}
}
