package server

import (
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/audit"
	"github.com/notef-neighbor/dreamcore/pkg/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/prompt"
	"github.com/notef-neighbor/dreamcore/pkg/replay"
	"github.com/notef-neighbor/dreamcore/pkg/usage"
)

// BenchmarkPrompt reports what a prompt endpoint adds to the model's own time:
// over HTTP, with the ledger and the audit log of a state directory.
func BenchmarkPrompt(b *testing.B) {
	books, err := usage.Open(b.TempDir(), usage.Options{Limits: usage.Limits{UserDayCost: 1e15, UserRequests: 1_000_000_000}})
	if err != nil {
		b.Fatal(err)
	}
	defer books.Close()
	log, err := audit.Open(b.TempDir(), audit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	model, own := replay.New(replay.Demo()), time.Duration(0)
	gw := gateway.New(gateway.Config{Audit: log, Upstream: gateway.HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		time.Sleep(20 * time.Millisecond) // a model that thinks
		model.ServeHTTP(w, r)
		own = time.Since(began)
	}))})
	sv := start(b, options{config: withPrompts(b, b.TempDir(), gw.Ask, func(c *prompt.Config) {
		c.Meter = func(user, project, job string) gateway.Meter { return books.Job(user, project, job) }
	})})
	var added []time.Duration
	for b.Loop() {
		own = 0
		began := time.Now()
		res, err := sv.client.Do(sv.request(http.MethodPost, "/detect_intent", promptBody))
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			b.Fatal(res.Status)
		}
		added = append(added, time.Since(began)-own)
	}
	slices.Sort(added)
	b.ReportMetric(float64(added[len(added)/2].Microseconds())/1000, "added-ms(median)")
	b.ReportMetric(float64(added[len(added)*95/100].Microseconds())/1000, "added-ms(p95)")
}
