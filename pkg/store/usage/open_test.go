package usage

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// busyMonth writes the ledger of a month in which 500 users make 10,000 requests a
// day, and returns the noon of its last day.
func busyMonth(tb testing.TB, dir string) time.Time {
	rng := rand.New(rand.NewPCG(1, 2))
	id := func() string { return uuid.Must(uuid.NewRandomFromReader(randReader{rng})).String() }
	var users, projects, jobs []string
	for range 500 {
		users, projects, jobs = append(users, id()), append(projects, id()), append(jobs, id())
	}
	models := []string{"claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"}
	var at time.Time
	for day := range 30 {
		var b bytes.Buffer
		for n := range 10_000 {
			at = time.Date(2026, 11, day+1, 0, 0, 0, n*8_640_000, time.UTC)
			u := rng.IntN(len(users))
			if rng.IntN(20) == 0 {
				jobs[u] = id()
			}
			r := Record{
				Time: at.Truncate(time.Millisecond), User: users[u], Project: projects[u], Job: jobs[u], Model: models[rng.IntN(3)], Upstream: "anthropic",
				Requests: 1, Input: rng.Int64N(5000), Output: 1, CacheRead: rng.Int64N(50_000), CacheWrite: rng.Int64N(9000), Cost: dreamcore.Nano(rng.Int64N(90_000_000)),
			}
			rest := r
			rest.Requests, rest.Input, rest.CacheRead, rest.CacheWrite = 0, 0, 0, 0
			rest.Time, rest.Output = r.Time.Add(5*time.Second), rng.Int64N(4000)
			for _, r := range []Record{r, rest} {
				line, err := r.encode()
				if err != nil {
					tb.Fatal(err)
				}
				b.Write(line)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, dayOf(at)+extension), b.Bytes(), fileMode); err != nil {
			tb.Fatal(err)
		}
	}
	return at
}

// randReader makes a random source an io.Reader.
type randReader struct{ *rand.Rand }

func (z randReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(z.Uint32())
	}
	return len(p), nil
}

// BenchmarkOpen measures the start of a busy service with 600,000 records: the
// first start, which sums up every day; one that finds the sums; and one after a
// late record.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	at := busyMonth(b, dir)
	for _, bench := range []struct {
		name   string
		before func()
	}{
		{"first", func() {
			for _, name := range sumsFiles(b, dir) {
				if err := os.Remove(name); err != nil {
					b.Fatal(err)
				}
			}
		}},
		{"again", func() {}},
		{"late", func() {
			appendTo(b, dir, "2026-11-05", lineOf(b, Record{Time: time.Date(2026, 11, 5, 23, 59, 59, 0, time.UTC), User: "late", Cost: 1}))
		}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				bench.before()
				ledger, err := Open(dir, Options{Now: func() time.Time { return at }})
				if err != nil {
					b.Fatal(err)
				}
				if ledger.machine.month == (sum{}) {
					b.Fatal("nothing was summed up")
				}
				_ = ledger.Close()
			}
		})
	}
}

// BenchmarkReport measures the command usage.
func BenchmarkReport(b *testing.B) {
	for _, by := range []string{"user", "job"} {
		b.Run(by, func(b *testing.B) {
			dir := b.TempDir()
			busyMonth(b, dir)
			for b.Loop() {
				p, err := NewReport(by)
				if err != nil {
					b.Fatal(err)
				}
				if err := Read(dir, time.Time{}, p.Add); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
