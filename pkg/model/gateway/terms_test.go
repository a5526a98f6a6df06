package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// cliBody is a request body of the pinned agent version, without its text.
const cliBody = `{"model":"claude-opus-5-5","messages":[{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}],"system":[{"type":"text","text":"x"}],
	"tools":[{"name":"Write","description":"x","input_schema":{}}],"metadata":{"user_id":"{}"},"max_tokens":128000,"thinking":{"type":"adaptive","display":"updates"},
	"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]},"output_config":{"effort":"medium"},"stream":true}`

// cliBetas is the value of its anthropic-beta header.
const cliBetas = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,per-turn-control-2026-07-01,mid-conversation-tool-changes-2026-07-01,thinking-token-count-2026-05-13,effort-2025-11-24,thinking-display-updates-2026-08-18"

func TestSurchargesAreDetected(t *testing.T) {
	for body, want := range map[string]string{
		`{"speed":"fast"}`:                             "speed",
		`{"sp\u0065ed":"f\u0061st"}`:                   "speed",
		`{"speed":"standard","speed":"fast"}`:          "speed",
		`{"speed":"Standard"}`:                         "speed",
		`{"speed":["standard"]}`:                       "speed",
		`{"speed":""}`:                                 "speed",
		`{"service_tier":"priority"}`:                  "service_tier",
		`{"service_tier":"flex"}`:                      "service_tier",
		`{"service_tier":"batch"}`:                     "service_tier",
		`{"inference_geo":"us"}`:                       "inference_geo",
		`{"inference_geo":{}}`:                         "inference_geo",
		`{"fallbacks":"default"}`:                      "fallbacks",
		`{"fallbacks":[{"model":"claude-fable-5-2"}]}`: "fallbacks",
		`{"compaction":{"type":"x"}}`:                  "compaction",
		`{"context_management":{"edits":[{"type":"clear_x"},{"type":"compact_20260112"}]}}`:                                    "context_management.edits",
		`{"context_management":{"edits":[{"type":"clear_x","type":"compact_20260112"}]}}`:                                      "context_management.edits",
		`{"\u0063ontext_management":{"\u0065dits":[{"t\u0079pe":"comp\u0061ct_1"}]}}`:                                          "context_management.edits",
		`{"\u0063\u006f\u006e\u0074\u0065\u0078\u0074\u005f\u006d\u0061\u006e\u0061\u0067\u0065\u006d\u0065\u006e\u0074":7}`:   "context_management.edits",
		`{"context_management":{"edits":[],"edits":[{"type":"compact_1"}]}}`:                                                   "context_management.edits",
		`{"context_management":{"edits":[{}]}}`:                                                                                "context_management.edits",
		`{"context_management":{"edits":[7]}}`:                                                                                 "context_management.edits",
		`{"context_management":{"edits":{"type":"compact_1"}}}`:                                                                "context_management.edits",
		`{"context_management":[{"type":"compact_1"}]}`:                                                                        "context_management.edits",
		`{"speed":null,"service_tier":null,"inference_geo":null,"fallbacks":null,"compaction":null,"context_management":null}`: "",
		`{"speed":"standard","service_tier":"auto","inference_geo":"global","fallbacks":[],"context_management":{}}`:           "",
		`{"service_tier":"standard_only","context_management":{"edits":null}}`:                                                 "",
		`{"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}}`:                                               "",
		`{"messages":[{"speed":"fast"}],"tools":[{"input_schema":{"speed":"fast","fallbacks":[1]}}],"Speed":"fast"}`:           "",
		cliBody: "",
	} {
		if !json.Valid([]byte(body)) {
			t.Fatal(body)
		}
		if got := surchargedMember([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestSurchargesAreRefusedAndTheirBetasDropped(t *testing.T) {
	var asked int
	var betas []string
	for _, tools := range []bool{false, true} {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			asked++
			betas = req.Header.Values("Anthropic-Beta")
			goodStream(w, req)
		}, func(c *Config) { c.ServerTools = tools })
		asked = 0
		a := r.post(`{"model":"m-1","speed":"fast","stream":true}`)
		wantRefusal(t, a, 403, "permission_error")
		if asked != 0 || !strings.Contains(a.body, "(speed)") {
			t.Errorf("asked %d times, %s", asked, a.body)
		}
		a = r.do(r.request(cliBody, func(req *http.Request) {
			req.Header["Anthropic-Beta"] = []string{"fast-mode-2026-02-01," + cliBetas + ", Compact-2026-01-12", "server-side-fallback-2026-07-01", "context-1m-2025-08-07"}
		}))
		if a.status != 200 || len(betas) != 2 || betas[0] != cliBetas || betas[1] != "context-1m-2025-08-07" {
			t.Errorf("%v, betas %q", a, betas)
		}
	}
}

func TestPromptBound(t *testing.T) {
	source := func(source string) string {
		return `{"messages":[{"content":[{"type":"x","source":` + source + `}]}]}`
	}
	for body, want := range map[string]attached{
		`{"messages":[]}`: {},
		source(`{"type":"base64","media_type":"image/png","data":"AA"}`):                               {images: 1},
		source(`{"type":"b\u0061se64","media_type":"im\u0061ge/png"}`):                                 {images: 1},
		source(`{"type":"base64","media_type":"application/pdf","data":"AA"}`):                         {documents: true},
		source(`{"type":"base64","media_type":"application/pdf","media_type":"image/png"}`):            {documents: true},
		source(`{"type":"base64","data":"AA"}`):                                                        {documents: true},
		source(`{"type":"text","media_type":"text/plain","data":"AA"}`):                                {},
		source(`{"type":"content","content":[{"source":{"type":"base64","media_type":"image/gif"}}]}`): {images: 1},
	} {
		far, got := inspect([]byte(body))
		if far || got != want {
			t.Errorf("%s: %+v, far %v", body, got, far)
		}
		if n := promptBound([]byte(body), got); n < int64(len(body)/3)+5000*want.images || want.documents && n < 1_000_000 {
			t.Errorf("%s: %d tokens at most", body, n)
		}
	}
	for body, want := range map[string]bool{
		`{"ttl":"1h"}`: true, `{"ttl":"\u0031h"}`: true, `{"ttl":"1\u0068"}`: true, `{"text":"\"1h\" 1h"}`: false, `{"ttl":"5m"}`: false,
	} {
		if got := asksForHour([]byte(body)); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

func FuzzTerms(f *testing.F) {
	for _, s := range []string{cliBody, `{"context_management":{"edits":[{"type":"compact_1"}]}}`, `{"speed":"fast","fallbacks":"x"}`, `{"messages":[{"source":{"type":"base64","media_type":"image/png"}}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if p, err := peekBody(body); err != nil || p.output < 0 {
			return
		}
		name := surchargedMember(body)
		var v map[string]any
		if json.Unmarshal(body, &v) == nil && name == "" {
			if s, _ := v["speed"].(string); s == "fast" || v["compaction"] == true {
				t.Errorf("%s passes", body)
			}
		}
		_, a := inspect(body)
		if n := promptBound(body, a); n < int64(len(body)/inputBytesPerToken) {
			t.Errorf("%s: %d tokens", body, n)
		}
	})
}

func FuzzUsage(f *testing.F) {
	f.Add([]byte(`{"input_tokens":1,"iterations":[{"model":"a\nb","input_tokens":"1e99"},null,{"iterations":[{}]}],"speed":"fast","server_tool_use":{"web_search_requests":1}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u := usageOf(raw)
		for _, hour := range []bool{false, true} {
			s := u.spent(hour)
			for _, n := range []int64{s.Input, s.Output, s.CacheWrite, s.CacheWrite1h, s.CacheRead, u.Searches, u.Executions} {
				if n < 0 || n > maxTokens {
					t.Fatalf("%q: %+v", raw, u)
				}
			}
			if s.CacheWrite+s.CacheWrite1h != u.CacheCreation {
				t.Fatalf("%q: %+v became %+v", raw, u, s)
			}
		}
		if terms := u.terms(); len(terms.Models) > maxModels {
			t.Fatalf("%q: %+v", raw, terms)
		}
		again := u
		again.merge(u)
		if again != u {
			t.Fatalf("%q: merged with itself %+v became %+v", raw, u, again)
		}
	})
}
