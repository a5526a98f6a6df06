package daemon

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
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

// A start that fails leaves the jobs alone: each attempt counts, and an operator
// repeats a start.
func TestAFailedStartTakesUpNoJob(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, for a sandbox")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := testState(t, func(c *config.Config) {
		c.Listen, c.ModelScript, c.Runtime = taken.Addr().String(), replay.DemoName, "runc"
	})
	store, _, err := s.CreateSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Create(secret.InternalSecret, map[string]string{secret.InternalKey: secret.NewInternalSecret()}, false); err != nil {
		t.Fatal(err)
	}
	program, err := os.Stat("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	record, err := json.Marshal(agent.Binary{Path: "/bin/true", Size: program.Size(), Modified: program.ModTime(), Proven: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(s.Path(JobsDir), "11111111-1111-4111-8111-111111111111.ndjson")
	const left = `#{"job":{"at":"2026-11-01T12:00:00Z","user":"a11ce000-0000-4000-8000-000000000001","project":"123e4567-e89b-42d3-a456-426614174000","prompt":"x","detach":true,"language":"en","resume":true}}` + "\n" +
		`#{"attempt":{"number":1,"at":"2026-11-01T12:00:01Z"}}` + "\n"
	for name, content := range map[string]string{filepath.Join(s.Path(AgentDir), "agent.json"): string(record), log: left} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	svc, err := Start(t.Context(), s, Options{Logger: testLog()})
	if err == nil {
		err = errors.Join(errors.New("it has started"), svc.Close())
	}
	if dreamcore.ReasonOf(err) != ReasonListen {
		t.Errorf("%v", err)
	}
	if got, err := os.ReadFile(log); err != nil || string(got) != left {
		t.Errorf("the log of the job: %q, %v", got, err)
	}
}
