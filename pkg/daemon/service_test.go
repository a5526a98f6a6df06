package daemon

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

func testLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestSecondServiceIsRefusedAndNamesTheFirst(t *testing.T) {
	s := testState(t, nil)
	var first, second Service
	if err := first.lock(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(lockFile), []byte("process 7, http://127.0.0.1:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := second.lock(s)
	if dreamcore.CodeOf(err) != dreamcore.CodeConflict || !strings.Contains(err.Error(), "(process 7, http://127.0.0.1:1)") {
		t.Errorf("%v", err)
	}
	s.release()
	if err := second.lock(s); err != nil {
		t.Errorf("after the first has closed: %v", err)
	}
	s.release()
}

// Start refuses in the order of the steps, and leaves the lock and the state
// directory free.
func TestStartRefusesWhatIsMissing(t *testing.T) {
	s := testState(t, nil)
	start := func() error {
		svc, err := Start(t.Context(), s, Options{Logger: testLog()})
		if err == nil {
			_ = svc.Close()
		}
		return err
	}
	if err := start(); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("without secrets: %v", err)
	}
	store, _, err := s.CreateSecrets()
	if err != nil {
		t.Fatal(err)
	}
	internal := secret.NewInternalSecret()
	if err := store.Create(secret.InternalSecret, map[string]string{secret.InternalKey: internal}, false); err != nil {
		t.Fatal(err)
	}
	if err := start(); err == nil || !strings.Contains(err.Error(), "no key for the model API") {
		t.Errorf("without a key: %v", err)
	}
	if s.Redactor.Redact(internal) == internal {
		t.Error("the internal secret is not hidden")
	}
	s.Config.ModelScript = replay.DemoName
	if err := start(); err == nil || !strings.Contains(err.Error(), "agent is not installed") {
		t.Errorf("without the agent: %v", err)
	}
	var lock Service
	if err := lock.lock(s); err != nil {
		t.Errorf("the lock is still held: %v", err)
	}
	s.release()
}

func TestMachineRefusesAnUnknownEngine(t *testing.T) {
	s := testState(t, func(c *config.Config) { c.Runtime = "docker" })
	m, err := OpenMachine(t.Context(), s, agent.Binary{}, testLog())
	if m != nil || dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "docker") {
		t.Errorf("%v", err)
	}
}

// A rotated secret is accepted without a restart, and the last one stays valid
// while the secrets cannot be read.
func TestInternalSecretsAreReadAgain(t *testing.T) {
	s := testState(t, nil)
	store, _, err := s.CreateSecrets()
	if err != nil {
		t.Fatal(err)
	}
	old := secret.NewInternalSecret()
	if err := store.Create(secret.InternalSecret, map[string]string{secret.InternalKey: old}, false); err != nil {
		t.Fatal(err)
	}
	i := &internalSecrets{state: s, log: testLog(), values: []string{old}, read: time.Now()}
	rotated, err := store.RotateInternal()
	if err != nil {
		t.Fatal(err)
	}
	if got := i.current(); !slices.Equal(got, []string{old}) {
		t.Errorf("read again before secretAge: %v", got)
	}
	i.read = time.Now().Add(-secretAge)
	if got := i.current(); !slices.Contains(got, rotated) || !slices.Contains(got, old) {
		t.Errorf("after a rotation: %v", got)
	}
	if s.Redactor.Redact(rotated) == rotated {
		t.Error("the new secret is not hidden")
	}
	if err := os.RemoveAll(s.Path(SecretsDir)); err != nil {
		t.Fatal(err)
	}
	i.read = time.Now().Add(-secretAge)
	if got := i.current(); !slices.Contains(got, rotated) {
		t.Errorf("while the secrets cannot be read: %v", got)
	}
}
