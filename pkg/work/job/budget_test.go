package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// openLedger opens a ledger in which the model m costs a dollar per million tokens.
func openLedger(t *testing.T, dir string, l usage.Limits) *usage.Ledger {
	t.Helper()
	prices, err := usage.ParsePrices([]string{"m in=1 out=1 write=1 write1h=1 read=1"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := usage.Open(dir, usage.Options{Prices: prices, Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the ledger: %v", err)
		}
	})
	return b
}

// teller is a model that gives a different answer each time, and records the usage.
type teller struct {
	mu   sync.Mutex
	used dreamcore.Tokens
}

func (m *teller) add(t dreamcore.Tokens) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.used = m.used.Plus(t)
}

// ServeHTTP streams an answer, cuts the stream after its beginning, or sends the
// answer in one piece.
func (m *teller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	five, hour := rand.Int64N(1000), rand.Int64N(1000)
	t := dreamcore.Tokens{Input: 1 + rand.Int64N(1000), CacheWrite: five, CacheWrite1h: hour, CacheRead: rand.Int64N(1000)}
	begin := fmt.Sprintf(`"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d}`,
		t.Input, five+hour, t.CacheRead, five, hour)
	out := 1 + rand.Int64N(1000)
	rc := http.NewResponseController(w)
	switch rand.N(3) {
	case 0:
		w.Header().Set("Content-Type", "application/json")
		t.Output = out
		m.add(t)
		fmt.Fprintf(w, `{"type":"message","usage":{%s,"output_tokens":%d}}`, begin, out)
		return
	case 1: // cut
		t.Output = 1
		m.add(t)
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: {\"type\":\"message_start\",\"message\":{\"usage\":{%s,\"output_tokens\":1}}}\n\n", begin)
		_ = rc.Flush()
		panic(http.ErrAbortHandler)
	}
	t.Output = out
	m.add(t)
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "data: {\"type\":\"message_start\",\"message\":{\"usage\":{%s,\"output_tokens\":1}}}\n\n", begin)
	_ = rc.Flush()
	fmt.Fprintf(w, "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":%d}}\n\ndata: {\"type\":\"message_stop\"}\n\n", out)
}

// gatewayTo opens a gateway with a model and returns a function that asks it as a
// job.
func gatewayTo(t *testing.T, model http.Handler, log *audit.Log) (*gateway.Socket, func(token, body string) (int, http.Header, string)) {
	t.Helper()
	g := gateway.New(gateway.Config{Upstream: gateway.HandlerUpstream(model), Audit: log, RetryLimit: 1 << 30})
	s, err := g.Listen(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return socket.Dial(ctx, s.Path()) }}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		if err := g.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, func(token, body string) (int, http.Header, string) {
		req, err := http.NewRequest(http.MethodPost, "http://model.invalid/v1/messages", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", token)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return 0, nil, err.Error()
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body) // an answer that is cut also counts
		return resp.StatusCode, resp.Header, string(raw)
	}
}

func TestTheLedgerMatchesTheStreams(t *testing.T) {
	dir, auditDir := t.TempDir(), t.TempDir()
	log, err := audit.Open(auditDir, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	model := &teller{}
	ledger := openLedger(t, dir, usage.Limits{})
	s, ask := gatewayTo(t, model, log)
	var mu sync.Mutex
	var granted dreamcore.Tokens
	var cost dreamcore.Nano
	var wg sync.WaitGroup
	for job := range 8 {
		wg.Go(func() {
			id := fmt.Sprint(job)
			gr := s.Grant(gateway.GrantOptions{Job: id, User: string(alice), Meter: ledger.Job(string(alice), "p", id)})
			for range 50 {
				if status, _, body := ask(gr.Token(), `{"model":"m","stream":true,"max_tokens":1}`); status != 200 {
					t.Errorf("%d %s", status, body)
				}
			}
			gr.Revoke()
			mu.Lock()
			defer mu.Unlock()
			u := gr.Usage()
			granted, cost = granted.Plus(u.Tokens), cost.Add(u.Cost)
		})
	}
	wg.Wait()
	if err := errors.Join(ledger.Close(), log.Close()); err != nil {
		t.Fatal(err)
	}
	report, err := usage.NewReport("job")
	if err != nil {
		t.Fatal(err)
	}
	if err := usage.Read(dir, time.Time{}, report.Add); err != nil {
		t.Fatal(err)
	}
	var audited dreamcore.Tokens
	n := 0
	if err := audit.Read(t.Context(), auditDir, audit.Filter{User: string(alice)}, false, func(e audit.Entry, _ []byte) error {
		audited = audited.Plus(e.Tokens)
		n++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want, total := model.used, report.Total
	if total.Tokens != want || granted != want || audited != want || n != 400 || total.Requests != 400 || len(report.Rows()) != 8 {
		t.Errorf("the streams reported %+v, the ledger %+v, the grants %+v, the audit log %+v in %d records", want, total, granted, audited, n)
	}
	if total.Cost != dreamcore.Nano(want.Total()*1000) || cost != total.Cost {
		t.Errorf("%d tokens cost %s in the ledger, %s in the grants", want.Total(), total.Cost, cost)
	}
}

func TestConcurrentRequestsStayWithinABudget(t *testing.T) {
	const limit, each = 5000, 30 // tokens
	ledger := openLedger(t, t.TempDir(), usage.Limits{JobTokens: limit})
	answer := fmt.Sprintf(`{"usage":{"input_tokens":10,"output_tokens":%d}}`, each-10)
	s, ask := gatewayTo(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}), nil)
	gr := s.Grant(gateway.GrantOptions{Meter: ledger.Job("u", "p", "j")})
	defer gr.Revoke()
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				status, header, body := ask(gr.Token(), `{"model":"m","max_tokens":2000}`)
				switch {
				case status == 200:
				case status == 429 && header.Get("X-Should-Retry") == "true" && header.Get("Retry-After") == "1":
					time.Sleep(time.Millisecond)
				case status == 429 && header.Get("X-Should-Retry") == "false" && strings.HasPrefix(body, `{"type":"error","error":{"type":"rate_limit_error"`):
					return
				default:
					t.Errorf("%d %v %s", status, header, body)
					return
				}
			}
		})
	}
	wg.Wait()
	// A request may use 2000 tokens plus its input; none of these does.
	if n := gr.Usage().Tokens.Total(); n < limit || n >= limit+each {
		t.Errorf("%d tokens were used of %d", n, limit)
	}
	if !gr.OverBudget() || gr.Failure() != dreamcore.FailRateLimit {
		t.Errorf("over %v, failure %q", gr.OverBudget(), gr.Failure())
	}
}

func TestAnAbortedRequestIsPaid(t *testing.T) {
	ledger := openLedger(t, t.TempDir(), usage.Limits{})
	text := strings.Repeat("data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\""+strings.Repeat("word ", 100)+"\"}}\n\n", 20)
	begun := make(chan struct{}, 2)
	s, _ := gatewayTo(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("User-Agent"), "early") {
			begun <- struct{}{}
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n"+text)
		_ = http.NewResponseController(w).Flush()
		begun <- struct{}{}
		<-r.Context().Done()
	}), nil)
	for agent, want := range map[string]dreamcore.Tokens{"early": {CacheWrite: 3000}, "late": {Input: 7, Output: 2450}} {
		gr := s.Grant(gateway.GrantOptions{Meter: ledger.Job("u", "p", agent)})
		c, err := socket.Dial(t.Context(), s.Path())
		if err != nil {
			t.Fatal(err)
		}
		body := `{"model":"m","stream":true,"system":"` + strings.Repeat("x", 2960) + `"}`
		fmt.Fprintf(c, "POST /v1/messages HTTP/1.1\r\nHost: x\r\nUser-Agent: %s\r\nX-Api-Key: %s\r\nContent-Length: %d\r\n\r\n%s", agent, gr.Token(), len(body), body)
		if agent == "late" {
			_, _ = io.ReadFull(c, make([]byte, len(text)))
		}
		<-begun
		c.Close()
		gr.Revoke()
		got := gr.Usage().Tokens
		// Early: the model has generated nothing yet.
		if got.Input != want.Input || got.CacheWrite < want.CacheWrite || got.CacheWrite > want.CacheWrite*11/10 || got.Output < want.Output*9/10 || got.Output > want.Output*11/10+1000 {
			t.Errorf("a request that is aborted %s costs %+v, want about %+v", agent, got, want)
		}
	}
}

// An answer in one piece costs what the model has generated so far, although
// nothing has arrived when the sandbox aborts the request.
func TestAnAbortedRequestWithoutAStreamIsPaid(t *testing.T) {
	ledger := openLedger(t, t.TempDir(), usage.Limits{})
	begun := make(chan struct{}, 1)
	s, _ := gatewayTo(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
	}), nil)
	for most, want := range map[int64]int64{100_000: 20, 5: 5} {
		gr := s.Grant(gateway.GrantOptions{Meter: ledger.Job("u", "p", fmt.Sprint(most))})
		c, err := socket.Dial(t.Context(), s.Path())
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"model":"m","max_tokens":%d}`, most)
		fmt.Fprintf(c, "POST /v1/messages HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nContent-Length: %d\r\n\r\n%s", gr.Token(), len(body), body)
		<-begun
		time.Sleep(250 * time.Millisecond)
		c.Close()
		gr.Revoke()
		if got := gr.Usage().Tokens; got.Output < want || got.Output > most || got.Prompt() == 0 {
			t.Errorf("an aborted request for %d tokens costs %+v, want %d at least", most, got, want)
		}
	}
}

func TestAJobOverBudgetStartsNoSandbox(t *testing.T) {
	auditDir := t.TempDir()
	log, err := audit.Open(auditDir, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ledger := openLedger(t, t.TempDir(), usage.Limits{UserDayTokens: 10})
	settle, err := ledger.Job(string(alice), "p", "j").Reserve("m", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	settle(dreamcore.Spent{Tokens: dreamcore.Tokens{Output: 10}}, true)
	r := newRig(t, options{parts: func(p *Parts) { p.Ledger, p.Audit = ledger, log }})
	last, _ := r.ends(r.run(request(alice, "a game")))
	if want := (dreamcore.Failure{Code: dreamcore.FailRateLimit, Spent: true}).UserMessage(dreamcore.English); last.Code != "RATE_LIMIT" || last.User != want {
		t.Errorf("%+v", last)
	}
	if len(r.made) != 0 || len(r.versions(alice)) != 0 {
		t.Errorf("%d sandboxes, versions %v", len(r.made), r.versions(alice))
	}
	// Another user is not affected, and the sandbox of that job is in the audit log.
	if last, _ := r.ends(r.run(request(bob, "a game"))); last.Type != "done" {
		t.Errorf("%+v", last)
	}
	var seen []string
	if err := audit.Read(t.Context(), auditDir, audit.Filter{}, false, func(e audit.Entry, _ []byte) error {
		seen = append(seen, e.Event+" "+string(e.Verdict)+" "+e.User+" "+e.Reason)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0] != "job refused "+string(alice)+" over the limit budget_user_day_tokens" || seen[1] != "sandbox_start allowed "+string(bob)+" " {
		t.Errorf("%q", seen)
	}
}

func TestAJobThatSpendsItsBudgetEndsWithRateLimit(t *testing.T) {
	ledger := openLedger(t, t.TempDir(), usage.Limits{JobCost: 1})
	answers := ""
	r := newRig(t, options{
		parts: func(p *Parts) { p.Ledger = ledger },
		upstream: gateway.HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"usage":{"input_tokens":1000,"output_tokens":500}}`)
		})),
		play: func(g guest) (int, error) {
			for range 2 {
				status, body, err := g.ask(`{"model":"m","max_tokens":5}`)
				if answers += fmt.Sprint(status, body); err != nil || status != 200 {
					return 1, err
				}
			}
			g.say(good)
			return 0, nil
		},
	})
	events := r.run(request(alice, "a game"))
	last, debug := r.ends(events)
	if last.Code != "RATE_LIMIT" || !strings.HasPrefix(last.User, "The limit for making games is reached") || strings.Contains(answers, "budget") {
		t.Errorf("%+v, the model answered %s", last, answers)
	}
	if debug.Cost != 0.0015 || debug.Input != 1000 || debug.Output != 500 {
		t.Errorf("%+v", debug)
	}
}

// TestAllRunsShareTheBudgetOfTheJob has an agent that spends the budget of a job,
// crashes, and is started once more.
func TestAllRunsShareTheBudgetOfTheJob(t *testing.T) {
	ledger := openLedger(t, t.TempDir(), usage.Limits{JobTokens: 1500})
	asked, runs := 0, 0
	asks := func(g guest) error {
		_, _, err := g.ask(question)
		g.say(answered)
		return err
	}
	r := newRig(t, options{
		parts: func(p *Parts) { p.Ledger = ledger },
		upstream: gateway.HandlerUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked++
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"usage":{"input_tokens":1000,"output_tokens":500}}`)
		})),
		play: inTurn(&runs, after(asks, 139), after(asks, 1)),
	})
	last, debug := r.ends(r.run(request(alice, "a game")))
	if runs != 2 || asked != 1 || last.Code != string(dreamcore.FailRateLimit) || debug.Input+debug.Output != 1500 {
		t.Errorf("%d runs, the model was asked %d times: %+v, %+v", runs, asked, last, debug)
	}
}
