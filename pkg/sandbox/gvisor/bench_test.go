package gvisor_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func BenchmarkCold(b *testing.B) { sandboxtest.Cold(b, opener(b)) }

func BenchmarkExec(b *testing.B) { sandboxtest.Exec(b, opener(b)) }

// BenchmarkBare measures the engine alone: `runsc run` of the same program on
// the same root, from start to end. It is the baseline of BenchmarkCold.
func BenchmarkBare(b *testing.B) {
	exe := sandboxtest.Binary(b)
	dir := b.TempDir()
	p, root := open(b, exe, filepath.Join(dir, "run"))
	bundle := bareBundle(b, p, root, exe, dir)
	// The engine leaves the network namespace of sandboxes without a network mounted.
	b.Cleanup(func() { _ = syscall.Unmount(filepath.Join(dir, "state/null-netns"), 0) })
	i := 0
	for b.Loop() {
		i++
		cmd := exec.Command(exe, gvisor.Role,
			"--root="+filepath.Join(dir, "state"), "--platform=systrap", "--network=none", "--host-uds=open",
			"--overlay2=none", "--ignore-cgroups", "--sidecar-usage-policy=STRICT", "--host-settings=ignore",
			"run", "--bundle", bundle, fmt.Sprintf("bare-%08d", i))
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GVISOR_SIDECAR_BINARIES_DIR=" + filepath.Join(p.Dir(), "sidecar")}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != "first output\n" {
			b.Fatalf("%v: %s", err, out)
		}
	}
}

// bareBundle writes a bundle like the provider's, except that its first process
// is a program instead of the supervisor.
func bareBundle(b *testing.B, p *engine.Provider, root sandbox.Root, exe, dir string) string {
	bundle := filepath.Join(dir, "bundle")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := oci.WriteBundle(bundle, exe, sandbox.Spec{Root: root}, nil); err != nil {
		b.Fatal(err)
	}
	name := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(raw, &config); err != nil {
		b.Fatal(err)
	}
	config["process"].(map[string]any)["args"] = []string{"/bin/echo", "first output"}
	if raw, err = json.Marshal(config); err == nil {
		err = os.WriteFile(name, raw, 0o600)
	}
	if err != nil {
		b.Fatal(err)
	}
	return bundle
}

// BenchmarkClean measures the cleanup of a reused sandbox after a job: ending
// every process and removing their residue.
func BenchmarkClean(b *testing.B) {
	p, root := open(b, sandboxtest.Binary(b), b.TempDir())
	sb, err := p.Create(b.Context(), sandbox.Spec{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := sb.EndAll(b.Context()); err != nil {
			b.Fatal(err)
		}
		pr, err := sb.Start(b.Context(), sandbox.Command{Args: []string{oci.InitPath, pid1.CleanRole, "/tmp", "/dev/shm"}, UID: sandboxtest.UID, GID: sandboxtest.GID})
		if err != nil {
			b.Fatal(err)
		}
		if exit, err := pr.Wait(); err != nil || exit.Code != 0 {
			b.Fatal(exit, err)
		}
	}
}

// BenchmarkProbe measures the check of a warm sandbox when it is leased.
func BenchmarkProbe(b *testing.B) {
	p, root := open(b, sandboxtest.Binary(b), b.TempDir())
	sb, err := p.Create(b.Context(), sandbox.Spec{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := sb.EndAll(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdle keeps a hundred idle sandboxes and reports the host memory of
// each, as counted by its cgroup.
func BenchmarkIdle(b *testing.B) {
	const held = 100
	p, root := open(b, sandboxtest.Binary(b), b.TempDir())
	for b.Loop() {
		var all []sandbox.Sandbox
		for range held {
			sb, err := p.Create(b.Context(), sandbox.Spec{Root: root})
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, sb)
		}
		b.ReportMetric(groupMiB(b, filepath.Base(p.Dir()))/held, "MiB/sandbox")
		for _, sb := range all {
			if err := sb.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// groupMiB returns the memory of an instance's cgroup.
func groupMiB(b *testing.B, instance string) float64 {
	for _, name := range []string{
		"/sys/fs/cgroup/memory/dreamcore/" + instance + "/memory.usage_in_bytes",
		"/sys/fs/cgroup/dreamcore/" + instance + "/memory.current",
	} {
		if raw, err := os.ReadFile(name); err == nil {
			n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return float64(n) / (1 << 20)
		}
	}
	b.Fatal("the instance has no cgroup")
	return 0
}
