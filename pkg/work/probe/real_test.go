package probe_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

// The user of the programs, inside.
const uid, gid = 10000, 10000

// realProber returns a prober with gVisor and the host's programs, and the directory
// of its data volume.
func realProber(t testing.TB) (p *probe.Prober, volume string) {
	t.Helper()
	provider, root := realProvider(t)
	volume = t.TempDir()
	return probe.New(probe.Config{
		Sandboxes: provider, Root: root, UID: uid, GID: gid,
		Scratch: func(id string) (string, func() error, error) {
			dir := filepath.Join(volume, id)
			return dir, func() error { return os.RemoveAll(dir) }, os.Mkdir(dir, 0o700)
		},
	}), volume
}

// realProvider returns a provider of gVisor that is closed at the end of the test.
func realProvider(t testing.TB) (sandbox.Provider, sandbox.Root) {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	exe := sandboxtest.Binary(t)
	root, err := rootfs.Host(t.TempDir(), uid, gid)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := gvisor.New(t.Context(), gvisor.Config{Exe: exe, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provider.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return provider, root
}

func TestChecksInRealSandboxes(t *testing.T) {
	p, volume := realProber(t)
	t.Run("input and output", func(t *testing.T) {
		got, err := p.SandboxIO(t.Context())
		if want := (probe.IOResult{Input: "hello", Output: "hello", Match: true}); err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("kernel", func(t *testing.T) {
		got, err := p.GVisor(t.Context())
		if err != nil || !got.IsGVisor {
			t.Errorf("got %+v, %v", got, err)
		}
		if host, err := os.ReadFile("/proc/version"); err == nil && got.ProcVersion == string(host[:len(host)-1]) {
			t.Errorf("the sandbox has the host's kernel: %q", got.ProcVersion)
		}
	})
	t.Run("volume", func(t *testing.T) {
		got, err := p.Volume(t.Context())
		if err != nil || !got.Match || got.Read != got.Written || got.Read == "" {
			t.Errorf("got %+v, %v", got, err)
		}
		if left, _ := os.ReadDir(volume); len(left) != 0 {
			t.Errorf("left in the volume: %v", left)
		}
	})
	t.Run("stream", func(t *testing.T) { testStream(t, p) })
	t.Run("agent", func(t *testing.T) {
		// /bin/cat, in place of the agent, also answers --version.
		for _, file := range []string{"", "/bin/cat"} {
			if err := p.Agent(t.Context(), file); err != nil {
				t.Errorf("%q: %v", file, err)
			}
		}
		script := filepath.Join(t.TempDir(), "agent")
		if err := os.WriteFile(script, []byte("#!/bin/sh\necho no such library >&2\nexit 127\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		err := p.Agent(t.Context(), script)
		if dreamcore.CodeOf(err) != dreamcore.CodeInternal || !strings.Contains(err.Error(), "the agent's program does not run") || !strings.Contains(err.Error(), "no such library") {
			t.Errorf("an agent that does not start: %v", err)
		}
	})
}

func testStream(t *testing.T, p *probe.Prober) {
	var events []dreamcore.Event
	var at []time.Time
	err := p.Stream(t.Context(), func(e dreamcore.Event) error {
		events, at = append(events, e), append(at, time.Now())
		return nil
	})
	if err != nil || len(events) != probe.Ticks+1 {
		t.Fatalf("got %d events %s, %v", len(events), events, err)
	}
	for i, e := range events[:probe.Ticks] {
		var tick struct {
			Count     int
			Timestamp float64
		}
		if err := json.Unmarshal(e, &tick); err != nil || tick.Count != i+1 {
			t.Errorf("event %d is %s, %v", i+1, e, err)
		}
		if off := time.Since(time.UnixMilli(int64(tick.Timestamp * 1000))); off < -time.Minute || off > time.Minute {
			t.Errorf("the timestamp of %s is %v off", e, off)
		}
		if i == 0 {
			continue
		}
		if pause := at[i].Sub(at[i-1]); pause < 500*time.Millisecond || pause > 2*time.Second {
			t.Errorf("event %d came %v after the one before", i+1, pause)
		}
	}
	if got := string(events[probe.Ticks]); got != `{"type":"done"}` {
		t.Errorf("the last event is %s", got)
	}
}

func TestCancelledCheckEndsItsSandbox(t *testing.T) {
	p, _ := realProber(t)
	ctx, cancel := context.WithCancel(t.Context())
	begin := time.Now()
	err := p.Stream(ctx, func(dreamcore.Event) error { cancel(); return nil })
	if err == nil || time.Since(begin) > 4*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
}

func BenchmarkSandboxIO(b *testing.B) {
	p, _ := realProber(b)
	for b.Loop() {
		if got, err := p.SandboxIO(b.Context()); err != nil || !got.Match {
			b.Fatalf("got %+v, %v", got, err)
		}
	}
}

// stubborn creates sandboxes, of which the first cannot end its processes.
type stubborn struct {
	sandbox.Provider
	made atomic.Int32
}

func (s *stubborn) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	sb, err := s.Provider.Create(ctx, spec)
	if err != nil || s.made.Add(1) > 1 {
		return sb, err
	}
	return immortal{sb}, nil
}

type immortal struct{ sandbox.Sandbox }

func (immortal) EndAll(context.Context) error { return errors.New("they live") }

func TestAForkBombThatCannotBeEndedReplacesItsSandbox(t *testing.T) {
	provider, root := realProvider(t)
	model := gateway.New(gateway.Config{})
	t.Cleanup(func() {
		if err := model.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	made := &stubborn{Provider: provider}
	p := probe.New(probe.Config{
		Sandboxes: made, Root: root, UID: uid, GID: gid, Limits: sandbox.Limits{Processes: 60},
		Deep: &probe.Deep{Dir: t.TempDir(), Volumes: volume.Options{UID: uid, GID: gid}, Gateway: model, Secrets: func() map[string]string { return nil }},
	})
	report, err := p.Deep(t.Context(), "fork-bomb", strings.Repeat("n", 32))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, e := range report.Evidence {
		seen[e.Tried] = e.Seen
	}
	if seen["ending every process"] != "replaced: they live" || !strings.HasPrefix(seen["a sandbox in its place"], "works") || made.made.Load() != 3 {
		t.Errorf("%d sandboxes: %v", made.made.Load(), seen)
	}
	if _, same := seen["the same sandbox afterwards"]; same || seen["left behind"] != "nothing" {
		t.Errorf("%v", seen)
	}
}
