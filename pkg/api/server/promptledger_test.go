package server

import (
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
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
		time.Sleep(20 * time.Millisecond) // a slow model
		model.ServeHTTP(w, r)
		own = time.Since(began)
	}))})
	sv := start(b, options{config: withPrompts(b, b.TempDir(), gw.Ask, func(c *prompt.Config) {
		c.Meter = func(user, projectID, job string) gateway.Meter { return books.Job(user, projectID, job) }
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

// TestLimitsHoldForPrompts sends prompts through a real gateway with a real ledger.
func TestLimitsHoldForPrompts(t *testing.T) {
	books, err := usage.Open(t.TempDir(), usage.Options{Limits: usage.Limits{UserRequests: 4, UserMonthTokens: 100}})
	if err != nil {
		t.Fatal(err)
	}
	defer books.Close()
	gw := gateway.New(gateway.Config{Upstream: gateway.HandlerUpstream(replay.New(replay.Demo()))})
	sv := start(t, options{config: withPrompts(t, t.TempDir(), gw.Ask, func(c *prompt.Config) {
		c.Meter = func(user, projectID, job string) gateway.Meter { return books.Job(user, projectID, job) }
	})})
	// A quarter of the 4 requests per minute may come at once.
	if status, _, body := sv.post("/v2_chat_haiku", promptBody); status != http.StatusOK {
		t.Fatalf("the first: status %d, %v", status, body)
	}
	status, header, body := sv.post("/v2_chat_haiku", promptBody)
	if status != http.StatusTooManyRequests || header.Get("Retry-After") == "" || body["error"] == nil {
		t.Errorf("user_requests: status %d, %v, %v", status, header, body)
	}
	if status, _, body := sv.post("/detect_intent", promptBody); status != http.StatusOK || body["fallback"] != true || body["intent"] != "chat" {
		t.Errorf("user_requests: status %d, %v", status, body)
	}
	// Another account has its own limits.
	if status, _, body := sv.post("/detect_intent", `{"message":"m"}`); status != http.StatusOK || body["fallback"] != nil {
		t.Errorf("another account: status %d, %v", status, body)
	}
	books.Apply(usage.Prices{}, usage.Limits{UserMonthTokens: 10})
	status, _, body = sv.post("/chat_haiku", promptBody)
	if want := (dreamcore.Failure{Code: dreamcore.FailRateLimit, Spent: true}).UserMessage(dreamcore.English); status != http.StatusInternalServerError || body["message"] != want {
		t.Errorf("a budget: status %d, %v", status, body)
	}
}
