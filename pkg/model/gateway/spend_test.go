package gateway

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// noting is a Meter that records the last report.
type noting struct {
	mu    sync.Mutex
	spent dreamcore.Spent
}

func (n *noting) Reserve(string, int64, int64) (func(dreamcore.Spent, bool) dreamcore.Nano, error) {
	return func(s dreamcore.Spent, _ bool) dreamcore.Nano {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.spent = s
		return 0
	}, nil
}

func (n *noting) last() dreamcore.Spent {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.spent
}

// renaming is an upstream that uses another name for the model.
type renaming struct{ Upstream }

func (r renaming) Send(ctx context.Context, call Call) (*Answer, error) {
	a, err := r.Upstream.Send(ctx, call)
	if a != nil {
		a.Model, a.Regional = "dear-1", true
	}
	return a, err
}

func TestLedgerRecordsTheModelThatAnswered(t *testing.T) {
	for _, want := range []string{"", "dear-1"} {
		var n noting
		r := newRig(t, goodStream, func(c *Config) {
			if want != "" {
				c.Upstream = renaming{c.Upstream}
			}
		})
		gr := r.socket.Grant(GrantOptions{Meter: &n})
		if a := r.do(r.request(testBody, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) })); a.status != 200 {
			t.Fatalf("%v", a)
		}
		gr.Revoke()
		if n.spent.Model != want || n.spent.Upstream != "anthropic" || n.spent.Tokens.Output != 42 || n.spent.Terms.Regional != (want != "") {
			t.Errorf("%+v", n.spent)
		}
	}
}

// The model works on an answer that is not streamed during the whole wait.
func TestTimedOutAnswerIsCharged(t *testing.T) {
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body) // the server notices a disconnect only after it
		<-req.Context().Done()
	}, func(c *Config) { c.HeaderLimit, c.AnswerLimit = 200*time.Millisecond, 200*time.Millisecond })
	for body, paid := range map[string]bool{`{"model":"m-1","max_tokens":1000}`: true, testBody: false} {
		var n noting
		gr := r.socket.Grant(GrantOptions{Meter: &n})
		if a := r.do(r.request(body, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) })); a.status != 504 {
			t.Fatalf("%v", a)
		}
		gr.Revoke()
		if got := n.spent; paid != (got.Tokens.Output >= 20 && got.Tokens.Prompt() > 0 && got.Estimated) || !paid && got.Tokens != (dreamcore.Tokens{}) {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

// hidden is a stream of a model whose thinking is hidden.
const hidden = eventStart + "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\"}}\n\n"

// While the model thinks, it sends only pings, and thinking is charged.
func TestInterruptedHiddenThinkingIsChargedByTime(t *testing.T) {
	const pings, ping = 20, "event: ping\ndata: {\"type\":\"ping\"}\n\n"
	const took = pings * 10 * time.Millisecond
	for name, tc := range map[string]struct {
		before, after string // the thinking
		how           string
		maxTokens     int
		atLeast, most int64
	}{
		"hung up on":             {hidden, "", "hang up", 64_000, 80, 64_000},
		"cut":                    {hidden, "", "cut", 64_000, 80, 64_000},
		"ended too early":        {hidden, "", "end", 64_000, 80, 64_000},
		"stalled":                {hidden, "", "stall", 64_000, 80, 64_000},
		"bounded by max_tokens":  {hidden, "", "hang up", 7, 7, 7},
		"the usage was seen":     {hidden, eventDelta, "hang up", 64_000, 42, 42},
		"and then it was cut":    {hidden, eventDelta, "cut", 64_000, 42, 42},
		"complete":               {hidden, eventDelta + eventStop, "end", 64_000, 42, 42},
		"complete without usage": {hidden, "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n" + eventStop, "end", 64_000, 1, 60},
		"one piece, cut":         {`{"type":"message","content":[`, "", "cut", 64_000, 80, 64_000},
	} {
		t.Run(name, func(t *testing.T) {
			var n noting
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				whole := tc.before[0] == '{'
				if !whole {
					beginStream(w)
				}
				send(w, tc.before)
				tick := time.NewTicker(took / pings)
				defer tick.Stop()
				for range pings {
					if <-tick.C; !whole {
						send(w, ping)
					}
				}
				send(w, tc.after)
				switch tc.how {
				case "cut":
					panic(http.ErrAbortHandler)
				case "hang up", "stall":
					<-req.Context().Done()
				}
			}, func(c *Config) {
				if tc.how == "stall" {
					c.IdleLimit = 300 * time.Millisecond
				}
			})
			gr := r.socket.Grant(GrantOptions{Meter: &n})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			req := r.request(`{"model":"m-1","stream":true,"max_tokens":`+strconv.Itoa(tc.maxTokens)+`}`, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) })
			resp, err := r.client.Do(req.WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if tc.how == "hang up" {
				_, err = io.ReadFull(resp.Body, make([]byte, len(tc.before)+pings*len(ping)+len(tc.after)))
			} else {
				_, _ = io.ReadAll(resp.Body)
			}
			_ = resp.Body.Close()
			if gr.Revoke(); err != nil {
				t.Fatal(err)
			}
			got := n.last()
			if out := got.Tokens.Output; out < tc.atLeast || out > tc.most || got.Estimated != (tc.atLeast != 42 && tc.atLeast != 1) {
				t.Errorf("%+v, want %d to %d tokens", got, tc.atLeast, tc.most)
			}
		})
	}
}
