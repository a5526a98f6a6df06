package job

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// pass is one pass of a model over a prompt, as the vendor charges for it.
type pass struct {
	model                           string
	in, out, write, writeHour, read int64
}

// bill is what the vendor charges for an answer.
type bill struct {
	passes         []pass
	fast, regional bool
	searches       int64
	containerHours int64
}

// vendorPrices are in thousandths of a dollar per million tokens: input, output,
// write for five minutes and for an hour, read. The last number is the factor of
// fast mode.
var vendorPrices = map[string][6]int64{
	"claude-opus-5-5":   {4_000, 20_000, 5_000, 8_000, 200, 2},
	"claude-opus-4-6":   {5_000, 25_000, 6_250, 10_000, 500, 6},
	"claude-opus-4-8":   {5_000, 25_000, 6_250, 10_000, 500, 2},
	"claude-fable-5-2":  {8_000, 40_000, 10_000, 16_000, 200, 2},
	"claude-sonnet-4-5": {3_000, 15_000, 3_750, 6_000, 300, 1},
	"claude-haiku-5-5":  {100, 500, 125, 200, 10, 1},
}

// price returns the price of the bill by the vendor's list, in billionths of a
// dollar.
func (b bill) price() dreamcore.Nano {
	var sum int64
	for _, p := range b.passes {
		v := vendorPrices[p.model]
		in, out := int64(10), int64(10) // tenths: the factors of a long prompt
		prompt := p.in + p.write + p.writeHour + p.read
		switch {
		case p.model == "claude-sonnet-4-5" && prompt > 200_000:
			in, out = 20, 15
		case p.model == "claude-haiku-5-5" && prompt > 100_000:
			in, out = 50, 50
		}
		cost := (p.in*v[0]+p.write*v[2]+p.writeHour*v[3]+p.read*v[4])*in/10 + p.out*v[1]*out/10
		if b.fast {
			cost *= v[5]
		}
		sum += cost
	}
	if b.regional {
		sum = sum * 11 / 10
	}
	return dreamcore.Nano(sum) + dreamcore.Nano(b.searches)*10_000_000 + dreamcore.Nano(b.containerHours)*50_000_000
}

// shape is a form of usage that the vendor documents. exact means that the usage is
// complete, so that the ledger has the exact price.
type shape struct {
	model string
	usage string
	body  string // members of the request besides model, max_tokens and stream
	bill  bill
	exact bool
}

func single(p pass) bill { return bill{passes: []pass{p}} }

// shapes are those of the Messages API reference and of its guides to prompt
// caching, compaction, fallback, the advisor tool, server tools, fast mode, data
// residency, service tiers and long context.
var shapes = map[string]shape{
	"plain": {"claude-opus-5-5", `{"input_tokens":2095,"output_tokens":503}`, ``, single(pass{in: 2095, out: 503}), true},
	"all members, standard": {"claude-opus-5-5",
		`{"cache_creation":{"ephemeral_1h_input_tokens":0,"ephemeral_5m_input_tokens":0},"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"inference_geo":"global","input_tokens":2095,"output_tokens":503,"output_tokens_details":{"thinking_tokens":400},"server_tool_use":{"web_fetch_requests":0,"web_search_requests":0},"service_tier":"standard","speed":"standard","iterations":[]}`,
		``, single(pass{in: 2095, out: 503}), true},
	"null members": {"claude-opus-5-5", `{"input_tokens":5,"output_tokens":6,"cache_creation":null,"cache_creation_input_tokens":null,"server_tool_use":null,"service_tier":null,"speed":null,"inference_geo":null,"iterations":null}`,
		``, single(pass{in: 5, out: 6}), true},
	"cache of both times": {"claude-opus-5-5", `{"input_tokens":2048,"cache_read_input_tokens":1800,"cache_creation_input_tokens":248,"output_tokens":503,"cache_creation":{"ephemeral_5m_input_tokens":148,"ephemeral_1h_input_tokens":100}}`,
		`,"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]`, single(pass{in: 2048, out: 503, write: 148, writeHour: 100, read: 1800}), true},
	"cache for an hour, without a breakdown": {"claude-opus-5-5", `{"input_tokens":20,"cache_creation_input_tokens":5000,"output_tokens":5}`,
		`,"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"\u0031h"}}]`, single(pass{in: 20, out: 5, writeHour: 5000}), true},
	"compaction": {"claude-opus-4-6", `{"input_tokens":23000,"output_tokens":1000,"iterations":[{"type":"compaction","input_tokens":180000,"output_tokens":3500},{"type":"message","input_tokens":23000,"output_tokens":1000}]}`,
		``, bill{passes: []pass{{in: 180000, out: 3500}, {in: 23000, out: 1000}}}, true},
	"compaction that wrote for an hour": {"claude-opus-4-6",
		`{"input_tokens":10,"output_tokens":1000,"cache_creation_input_tokens":9000,"cache_creation":{"ephemeral_1h_input_tokens":9000,"ephemeral_5m_input_tokens":0},"iterations":[{"type":"compaction","input_tokens":100,"output_tokens":3500,"cache_creation_input_tokens":180000,"cache_read_input_tokens":7},{"type":"message","input_tokens":10,"output_tokens":1000,"cache_creation_input_tokens":9000,"cache_read_input_tokens":0}]}`,
		`,"cache_control":{"type":"ephemeral","ttl":"1h"}`, bill{passes: []pass{{in: 100, out: 3500, writeHour: 180000, read: 7}, {in: 10, out: 1000, writeHour: 9000}}}, true},
	"compaction in a stream with totals at the top": {"claude-opus-4-6", `{"input_tokens":300,"output_tokens":70,"iterations":[{"type":"message","input_tokens":100,"output_tokens":50}]}`,
		``, single(pass{in: 300, out: 70}), true},
	"fallback to a more expensive model": {"claude-opus-5-5", `{"input_tokens":100,"output_tokens":900,"iterations":[{"type":"message","model":"claude-opus-5-5","input_tokens":100,"output_tokens":3},{"type":"fallback_message","model":"claude-fable-5-2","input_tokens":100,"output_tokens":900}],"fallback_credit":{"input_tokens":100}}`,
		``, bill{passes: []pass{{in: 100, out: 3}, {model: "claude-fable-5-2", in: 100, out: 900}}}, false},
	"fallback to a cheaper model": {"claude-fable-5-2", `{"input_tokens":100,"output_tokens":900,"iterations":[{"type":"message","model":"claude-fable-5-2","input_tokens":100,"output_tokens":3},{"type":"fallback_message","model":"claude-opus-4-8","input_tokens":100,"output_tokens":900}]}`,
		``, bill{passes: []pass{{in: 100, out: 3}, {model: "claude-opus-4-8", in: 100, out: 900}}}, false},
	"advisor": {"claude-haiku-5-5", `{"input_tokens":412,"output_tokens":531,"iterations":[{"type":"message","input_tokens":412,"output_tokens":89},{"type":"advisor_message","model":"claude-opus-5-5","input_tokens":823,"output_tokens":1612},{"type":"message","input_tokens":1348,"output_tokens":442}]}`,
		``, bill{passes: []pass{{in: 412, out: 89}, {model: "claude-opus-5-5", in: 823, out: 1612}, {in: 1348, out: 442}}}, false},
	"web search": {"claude-opus-5-5", `{"input_tokens":105,"output_tokens":6039,"cache_read_input_tokens":7123,"server_tool_use":{"web_search_requests":3,"web_fetch_requests":2}}`,
		``, bill{passes: []pass{{in: 105, out: 6039, read: 7123}}, searches: 3}, true},
	"code execution": {"claude-opus-5-5", `{"input_tokens":105,"output_tokens":239,"server_tool_use":{"code_execution_requests":1}}`,
		``, bill{passes: []pass{{in: 105, out: 239}}, containerHours: 1}, true},
	"fast mode": {"claude-opus-5-5", `{"input_tokens":523,"output_tokens":1842,"speed":"fast"}`, ``, bill{passes: []pass{{in: 523, out: 1842}}, fast: true}, true},
	"fast mode of an older model": {"claude-opus-4-6", `{"input_tokens":523,"output_tokens":1842,"cache_read_input_tokens":10000,"speed":"fast"}`,
		``, bill{passes: []pass{{in: 523, out: 1842, read: 10000}}, fast: true}, true},
	"in one region": {"claude-opus-5-5", `{"input_tokens":25,"output_tokens":151,"inference_geo":"us"}`, ``, bill{passes: []pass{{in: 25, out: 151}}, regional: true}, true},
	"fast, in one region, with searches": {"claude-opus-4-8", `{"input_tokens":25,"output_tokens":151,"inference_geo":"us","speed":"fast","server_tool_use":{"web_search_requests":1}}`,
		``, bill{passes: []pass{{in: 25, out: 151}}, regional: true, fast: true, searches: 1}, true},
	"unknown region":     {"claude-opus-4-6", `{"input_tokens":25,"output_tokens":151,"inference_geo":"not_available"}`, ``, single(pass{in: 25, out: 151}), true},
	"priority":           {"claude-opus-5-5", `{"input_tokens":410,"output_tokens":585,"service_tier":"priority"}`, ``, single(pass{in: 410, out: 585}), true},
	"long context":       {"claude-sonnet-4-5", `{"input_tokens":100001,"cache_read_input_tokens":60000,"cache_creation_input_tokens":40000,"output_tokens":1000}`, ``, single(pass{in: 100001, read: 60000, write: 40000, out: 1000}), false},
	"not yet long":       {"claude-sonnet-4-5", `{"input_tokens":100000,"cache_read_input_tokens":60000,"cache_creation_input_tokens":40000,"output_tokens":1000}`, ``, single(pass{in: 100000, read: 60000, write: 40000, out: 1000}), true},
	"long for the model": {"claude-haiku-5-5", `{"input_tokens":100001,"output_tokens":1000}`, ``, single(pass{in: 100001, out: 1000}), true},
	"one window":         {"claude-opus-5-5", `{"input_tokens":900000,"output_tokens":1000}`, ``, single(pass{in: 900000, out: 1000}), true},
	"long after a short pass": {"claude-haiku-5-5", `{"input_tokens":100,"output_tokens":10,"iterations":[{"type":"compaction","input_tokens":150000,"output_tokens":100},{"type":"message","input_tokens":100,"output_tokens":10}]}`,
		``, bill{passes: []pass{{in: 150000, out: 100}, {in: 100, out: 10}}}, false},
}

// answerWithUsage answers with a message that has the usage, streamed if the request
// says so. As with the vendor, the beginning of a stream has the input only.
func answerWithUsage(w http.ResponseWriter, r *http.Request, usage string) {
	body, _ := io.ReadAll(r.Body)
	if !strings.Contains(string(body), `"stream":true`) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"type":"message","role":"assistant","content":[],"stop_reason":"end_turn","usage":%s}`, usage)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n")
	fmt.Fprintf(w, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":%s}\n\n", usage)
	fmt.Fprintf(w, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
}

func TestTheLedgerIsNeverBelowThePriceOfTheVendor(t *testing.T) {
	for name, sh := range shapes {
		for i, p := range sh.bill.passes {
			if p.model == "" {
				sh.bill.passes[i].model = sh.model
			}
		}
		if !json.Valid([]byte(sh.usage)) {
			t.Fatalf("%s: no JSON", name)
		}
		for _, stream := range []bool{true, false} {
			ledger := openLedger(t, t.TempDir(), usage.Limits{})
			s, ask := gatewayTo(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answerWithUsage(w, r, sh.usage) }), nil)
			gr := s.Grant(gateway.GrantOptions{Meter: ledger.Job("u", "p", "j")})
			status, _, body := ask(gr.Token(), fmt.Sprintf(`{"model":%q,"max_tokens":64000,"stream":%v%s}`, sh.model, stream, sh.body))
			gr.Revoke()
			got, want := gr.Usage().Cost, sh.bill.price()
			if status != 200 || got < want || sh.exact && got != want || got > want*12 {
				t.Errorf("%s, stream %v: status %d, the ledger has %s, the vendor's price is %s: %s", name, stream, status, got, want, body)
			}
		}
	}
}

// The number of tokens of a small document, and the surcharge of a workspace at the
// vendor, are unknown before the answer. Concurrent requests must exceed a budget
// by one request at most.
func TestConcurrentRequestsExceedABudgetByOneAtMost(t *testing.T) {
	for name, tc := range map[string]struct{ body, usage string }{
		"a region of the workspace": {`{"model":"claude-opus-5-5","max_tokens":50000}`,
			`{"input_tokens":100,"output_tokens":50000,"inference_geo":"us"}`},
		"small documents of many pages": {`{"model":"claude-opus-5-5","max_tokens":100,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"JVBERg=="}}]}]}`,
			`{"input_tokens":3,"cache_creation_input_tokens":900000,"output_tokens":100}`},
		"small images": {`{"model":"claude-opus-5-5","max_tokens":1,"messages":[{"role":"user","content":[` + strings.TrimSuffix(strings.Repeat(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw=="}},`, 50), ",") + `]}]}`,
			`{"input_tokens":3,"cache_creation_input_tokens":239200,"output_tokens":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			model := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(25 * time.Millisecond) // the time of the model, so that requests overlap
				answerWithUsage(w, r, tc.usage)
			})
			free := openLedger(t, t.TempDir(), usage.Limits{})
			s, ask := gatewayTo(t, model, nil)
			gr := s.Grant(gateway.GrantOptions{Meter: free.Job("u", "p", "j")})
			ask(gr.Token(), tc.body)
			gr.Revoke()
			each := gr.Usage().Cost

			limit := 12 * each
			ledger := openLedger(t, t.TempDir(), usage.Limits{JobCost: limit})
			s, ask = gatewayTo(t, model, nil)
			gr = s.Grant(gateway.GrantOptions{Meter: ledger.Job("u", "p", "j")})
			var wg sync.WaitGroup
			for range 14 { // the gateway's own limit for one job is 16
				wg.Go(func() {
					for {
						status, header, body := ask(gr.Token(), tc.body)
						switch {
						case status == 200:
						case status == 429 && header.Get("X-Should-Retry") == "true":
							time.Sleep(time.Millisecond)
						case status == 429:
							return
						default:
							t.Errorf("%d %s", status, body)
							return
						}
					}
				})
			}
			wg.Wait()
			gr.Revoke()
			if got := gr.Usage().Cost; each == 0 || got < limit || got >= limit+each {
				t.Errorf("%s was spent of %s, one request costs %s", got, limit, each)
			}
		})
	}
}
