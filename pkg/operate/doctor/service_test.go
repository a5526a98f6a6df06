package doctor

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// healthy is a state directory and sandboxes without a fault.
func healthy(t *testing.T) (*State, *Sandboxes) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "secrets")
	if _, err := secret.Init(dir, ""); err != nil {
		t.Fatal(err)
	}
	store, err := secret.Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Create(secret.InternalSecret, map[string]string{secret.InternalKey: secret.NewInternalSecret()}, false); err != nil {
		t.Fatal(err)
	}
	return &State{
			Dir: filepath.Dir(dir), ModelTitle: "https://model", CheckFree: func() error { return nil },
			Secrets:    func() (*secret.Store, error) { return store, nil },
			Prompts:    func() (*prompt.Set, error) { return nil, errors.New("no prompts in this test") },
			Agent:      func() (agent.Binary, error) { return agent.Binary{Version: "1.2.3"}, nil },
			CheckModel: func() error { return nil },
		}, &Sandboxes{
			Name:      "gVisor",
			SandboxIO: func(context.Context) (probe.IOResult, error) { return probe.IOResult{Match: true}, nil },
			GVisor: func(context.Context) (probe.Kernel, error) {
				return probe.Kernel{IsGVisor: true, ProcVersion: "gVisor"}, nil
			},
			Prove: func(context.Context) (string, error) { return "1.2.3", nil },
		}
}

// diagnose runs the checks of the service and returns the findings by name.
func diagnose(t *testing.T, s *State, b *Sandboxes) map[string]Finding {
	t.Helper()
	opened := 0
	checks := Service(func() (State, error) { opened++; return *s, nil }, func(context.Context) (Sandboxes, error) { return *b, nil })
	found := map[string]Finding{}
	for _, f := range Run(t.Context(), checks, Hooks{Hint: func(err error) string { return string(dreamcore.ReasonOf(err)) + dreamcore.HintOf(err) }}).Findings {
		found[f.Name] = f
	}
	if opened != 1 {
		t.Errorf("the state directory was opened %d times", opened)
	}
	return found
}

func TestServiceChecks(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name   string
		change func(s *State, b *Sandboxes)
		check  string
		status Status
		text   string // of detail and fix
	}{
		{"no fault", nil, "secrets", OK, "the internal secret exists"},
		{"no fault", nil, "model", OK, "https://model, with a key"},
		{"no fault", nil, "agent in a sandbox", OK, "1.2.3"},
		{"no bound", nil, "disk bound", Warn, "disk_mib"},
		{"full disk", func(s *State, _ *Sandboxes) { s.CheckFree = func() error { return broken } }, "disk bound", Fail, "broken"},
		{"no key", func(s *State, _ *Sandboxes) { s.CheckModel = func() error { return broken } }, "model", Warn, string(ReasonNoKey)},
		{"no script", func(s *State, _ *Sandboxes) { s.Script = "/nowhere" }, "model", Fail, "/nowhere"},
		{"an upstream without credentials", func(s *State, _ *Sandboxes) {
			s.Upstreams, s.UpstreamFaults = 2, func() (credentials, models []error) { return []error{broken}, nil }
		}, "model", Warn, "broken"},
		{"no upstream with credentials", func(s *State, _ *Sandboxes) {
			s.Upstreams, s.UpstreamFaults = 1, func() (credentials, models []error) { return []error{broken}, []error{broken} }
		}, "model", Fail, "broken"},
		{"no sandbox", func(_ *State, b *Sandboxes) {
			b.SandboxIO = func(context.Context) (probe.IOResult, error) { return probe.IOResult{}, broken }
		}, "isolation", Skipped, "because of: sandbox"},
		{"another output", func(_ *State, b *Sandboxes) {
			b.SandboxIO = func(context.Context) (probe.IOResult, error) { return probe.IOResult{Input: "a", Output: "b"}, nil }
		}, "sandbox", Fail, `answered "b" to "a"`},
		{"another kernel", func(_ *State, b *Sandboxes) {
			b.GVisor = func(context.Context) (probe.Kernel, error) { return probe.Kernel{ProcVersion: "Linux"}, nil }
		}, "isolation", Fail, "not gVisor's: Linux"},
		{"no agent", func(s *State, _ *Sandboxes) {
			s.Agent = func() (agent.Binary, error) { return agent.Binary{}, broken }
		}, "agent in a sandbox", Skipped, "because of: agent"},
		{"an agent that does not work", func(_ *State, b *Sandboxes) {
			b.Prove = func(context.Context) (string, error) { return "", broken }
		}, "agent in a sandbox", Fail, string(ReasonAgent)},
	} {
		s, b := healthy(t)
		if tt.change != nil {
			tt.change(s, b)
		}
		f := diagnose(t, s, b)[tt.check]
		if f.Status != tt.status || !strings.Contains(f.Detail+" "+f.Fix, tt.text) {
			t.Errorf("%s: %+v", tt.name, f)
		}
	}
}
