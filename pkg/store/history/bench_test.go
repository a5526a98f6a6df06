package history

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const benchFiles = 200

func benchProject(b *testing.B) *fixture {
	f := newFixture(b)
	f.rewrite(b, 0)
	f.commit(b, "first")
	return f
}

// rewrite gives all files of the benchmark another content.
func (f *fixture) rewrite(b *testing.B, round int) {
	b.Helper()
	for i := range benchFiles {
		f.rewriteOne(b, i, round)
	}
}

func (f *fixture) rewriteOne(b *testing.B, i, round int) {
	path := filepath.Join(f.dir, fmt.Sprintf("d%d", i%10), fmt.Sprintf("f%d.js", i))
	text := fmt.Appendf(nil, "// round %d\n", round)
	for line := range 60 {
		text = fmt.Appendf(text, "const value_%d_%d = %d;\n", i, line, i*line)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkCommitChanged saves a version with 200 changed files of 2 KB.
func BenchmarkCommitChanged(b *testing.B) {
	for _, versions := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("versions=%d", versions), func(b *testing.B) {
			f := benchProject(b)
			for v := range versions - 1 {
				f.rewriteOne(b, v%benchFiles, v+1)
				f.commit(b, "earlier")
			}
			var times []time.Duration
			for n := 0; b.Loop(); n++ {
				b.StopTimer()
				f.rewrite(b, 1_000_000+n)
				b.StartTimer()
				began := time.Now()
				f.commit(b, "now")
				times = append(times, time.Since(began))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "median-ms")
		})
	}
}

// BenchmarkCommitUnchanged finds that nothing changed in 200 files.
func BenchmarkCommitUnchanged(b *testing.B) {
	f := benchProject(b)
	time.Sleep(racyMargin + 100*time.Millisecond) // so that the index is trusted
	f.commit(b, "again")
	for b.Loop() {
		f.commit(b, "again")
	}
}

// BenchmarkCommitMany saves one changed file of the largest possible project.
func BenchmarkCommitMany(b *testing.B) {
	f := newFixture(b)
	for dir := range 99 {
		for i := range 1000 {
			f.write(b, map[string]string{fmt.Sprintf("d%d/f%d", dir, i): fmt.Sprint(dir, i)})
		}
	}
	began := time.Now()
	f.commit(b, "first")
	first := time.Since(began)
	time.Sleep(racyMargin + 100*time.Millisecond)
	f.commit(b, "settled")
	for n := 0; b.Loop(); n++ {
		f.write(b, map[string]string{"d1/f1": fmt.Sprint("changed ", n)})
		f.commit(b, "now")
	}
	b.ReportMetric(first.Seconds(), "first-s")
}
