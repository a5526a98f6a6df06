package acceptance_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// driver returns the embedded driver. The test needs it and a browser.
func driver(t testing.TB, p sandbox.Provider, root sandbox.Root) string {
	t.Helper()
	file := p.(*engine.Provider).CheckFile()
	sandboxtest.Need(t, file != "", "dreamcore-check (scripts/supervisor.sh)")
	sandboxtest.Need(t, acceptance.Installed(root) != "", "a browser on this machine (chromium-headless-shell)")
	return file
}

func TestARealBrowserTellsAGameThatWorksFromOneThatDoesNot(t *testing.T) {
	for _, name := range []string{gvisor.Name, runc.Name} {
		t.Run(name, func(t *testing.T) {
			p, root := provide(t, name)
			place := acceptance.Place{Sandboxes: p, Root: root, CheckFile: driver(t, p, root), Dir: t.TempDir()}
			s := settings
			s.Limit = 2 * time.Minute // the machine may be busy
			version, err := place.Prove(t.Context(), s)
			if err != nil || !strings.Contains(version, "Chrom") {
				t.Errorf("%q, %v", version, err)
			}
		})
	}
}

// memoryOf returns the memory of a sandbox in bytes, with and without the part
// that the kernel could reclaim.
func memoryOf(t testing.TB, sb sandbox.Sandbox) (all, anonymous int64) {
	t.Helper()
	dirs, _ := filepath.Glob("/sys/fs/cgroup/dreamcore/*/" + sb.ID())
	more, _ := filepath.Glob("/sys/fs/cgroup/memory/dreamcore/*/" + sb.ID())
	deep, _ := filepath.Glob("/sys/fs/cgroup/*/dreamcore/*/" + sb.ID())
	for _, dir := range slices.Concat(dirs, more, deep) {
		for _, file := range []string{"memory.current", "memory.usage_in_bytes"} {
			if raw, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				all, _ = strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
			}
		}
		raw, _ := os.ReadFile(filepath.Join(dir, "memory.stat"))
		for line := range strings.Lines(string(raw)) {
			f := strings.Fields(line)
			if len(f) == 2 && slices.Contains([]string{"anon", "shmem", "total_rss", "total_shmem"}, f[0]) {
				n, _ := strconv.ParseInt(f[1], 10, 64)
				anonymous += n
			}
		}
	}
	return all, anonymous
}

// BenchmarkCheck reports what a check costs: the start of the browser, its memory,
// and the time from the end of the agent to the verdict.
func BenchmarkCheck(b *testing.B) {
	for _, name := range []string{gvisor.Name, runc.Name} {
		b.Run(name, func(b *testing.B) {
			p, root := provide(b, name)
			file := driver(b, p, root)
			var starts, checks []time.Duration
			var before, ready, after int64
			for b.Loop() {
				b.StopTimer()
				sb := create(b, p, root, file, sandbox.Limits{})
				if out := sh(b, sb, uid, "true"); out != "" {
					b.Fatal(out)
				}
				before, _ = memoryOf(b, sb)
				b.StartTimer()
				began := time.Now()
				browser := acceptance.Start(b.Context(), sb, settings)
				_, _ = browser.Check(b.Context(), "/nowhere") // starts the browser only with a page
				if _, err := browser.Check(b.Context(), inside); err != nil {
					b.Fatal(err)
				}
				starts = append(starts, time.Since(began))
				ready, _ = memoryOf(b, sb)
				began = time.Now()
				r, err := browser.Check(b.Context(), inside)
				if err != nil || r.Verdict == verdict.Unknown {
					b.Fatalf("%+v, %v", r, err)
				}
				checks = append(checks, time.Since(began))
				after, _ = memoryOf(b, sb)
				if err := browser.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			slices.Sort(starts)
			slices.Sort(checks)
			b.ReportMetric(starts[len(starts)/2].Seconds(), "first-s")
			b.ReportMetric(checks[len(checks)/2].Seconds(), "check-s")
			b.ReportMetric(float64(before>>20), "before-MiB")
			b.ReportMetric(float64(ready>>20), "ready-MiB")
			b.ReportMetric(float64(after>>20), "after-MiB")
		})
	}
}
