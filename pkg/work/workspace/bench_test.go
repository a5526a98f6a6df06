package workspace

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkWarmLease measures the pool's own part of a warm lease and its release,
// with as many workspaces as a large machine has.
func BenchmarkWarmLease(b *testing.B) {
	const workspaces = 200
	m := newMachine(workspaces)
	p, err := newTestPool(m, Limits{Max: workspaces, Idle: time.Hour, MaxAge: time.Hour, MinFree: 1}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close(b.Context())
	for n := range workspaces {
		if _, err := p.Prewarm(b.Context(), user(n)); err != nil {
			b.Fatal(err)
		}
	}
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		l, err := p.Lease(b.Context(), user(7))
		if err != nil || !l.Reused() {
			b.Fatal("no warm lease: ", err)
		}
		took = append(took, time.Since(began))
		l.Release(b.Context())
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "ns/lease-median")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "ns/lease-p99")
}
