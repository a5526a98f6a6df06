package upstream

import (
	"encoding/json"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream/upstreamtest"
)

func TestUnknownMembersAreNotSentToCloud(t *testing.T) {
	flags := func(names ...string) http.Header { return http.Header{"Anthropic-Beta": names} }
	for name, tc := range map[string]struct {
		header    http.Header
		in        string
		bedrock   string
		vertex    string
		betas     string // kept for Bedrock
		vertexSet string
	}{
		"nothing": {flags(), `{"model":"m","messages":[]}`, "", "", "", ""},
		"flags": {
			flags("claude-code-20250219, effort-2025-11-24 ,,thinking-display-updates-2026-08-18", "effort-2025-11-24", "interleaved-thinking-2025-05-14"),
			`{"messages":[]}`, "", "", "claude-code-20250219,effort-2025-11-24,interleaved-thinking-2025-05-14", "interleaved-thinking-2025-05-14",
		},
		"members of unknown flags": {
			flags("context-hint-2026-04-09"),
			`{"context_management":{"edits":[]}, "max_tokens" : 1.0,"output_config":{"effort":"low"},"speed":"fast","messages":[] , "x":{"y":1}}`,
			`{"max_tokens" : 1.0,"messages":[]}`, `{"max_tokens" : 1.0,"messages":[]}`, "", "",
		},
		"members of known flags": {
			flags("context-management-2025-06-27,effort-2025-11-24"),
			`{"context_management":{"edits":[]},"output_config":{"effort":"low"}}`,
			"", `{"context_management":{"edits":[]}}`, "context-management-2025-06-27,effort-2025-11-24", "context-management-2025-06-27",
		},
		"thinking":     {flags(), `{"thinking":{"type":"adaptive","display":"updates"}}`, `{"thinking":{"type":"adaptive"}}`, `{"thinking":{"type":"adaptive"}}`, "", ""},
		"all is left":  {flags(), `{ "x":1 , "y":2 }`, `{}`, `{}`, "", ""},
		"system, text": {flags(), `{"system":"cache_control"}`, "", "", "", ""},
		"system": {
			flags(), `{"system":[{"type":"text","text":"{\"scope\"}","cache_control":{"type":"ephemeral","scope":"global","ttl":"1h"}}, {"type":"text"}]}`,
			`{"system":[{"type":"text","text":"{\"scope\"}","cache_control":{"type":"ephemeral","ttl":"1h"}}, {"type":"text"}]}`,
			`{"system":[{"type":"text","text":"{\"scope\"}","cache_control":{"type":"ephemeral","ttl":"1h"}}, {"type":"text"}]}`, "", "",
		},
		"messages": {
			flags(), `{"messages":[{"role":"user","content":"hi","output_config":{"effort":"low"}},{"role":"user","content":[{"type":"tool_result","content":[{"type":"text","cache_control":{"scope":1}}],"cache_control":{"type":"ephemeral"}}]}]}`,
			`{"messages":[{"role":"user","content":"hi"},{"role":"user","content":[{"type":"tool_result","content":[{"type":"text","cache_control":{}}],"cache_control":{"type":"ephemeral"}}]}]}`,
			`{"messages":[{"role":"user","content":"hi"},{"role":"user","content":[{"type":"tool_result","content":[{"type":"text","cache_control":{}}],"cache_control":{"type":"ephemeral"}}]}]}`, "", "",
		},
		"what tools are called with stays": {
			flags(), `{"messages":[{"role":"assistant","content":[{"type":"tool_use","input":{"cache_control":{"scope":1},"x":2}}]}]}`, "", "", "", "",
		},
		"tools": {
			flags("tool-search-tool-2025-10-19"),
			`{"tools":[{"name":"a","defer_loading":true,"strict":true,"input_schema":{"strict":1}},{"type":"bash_20250124","name":"bash","own":1,"input_examples":[]}]}`,
			`{"tools":[{"name":"a","defer_loading":true,"input_schema":{"strict":1}},{"type":"bash_20250124","name":"bash","own":1}]}`,
			`{"tools":[{"name":"a","defer_loading":true,"input_schema":{"strict":1}},{"type":"bash_20250124","name":"bash","own":1}]}`,
			"tool-search-tool-2025-10-19", "tool-search-tool-2025-10-19",
		},
		"odd types": {flags(), `{"tools":{},"messages":"x","system":null,"thinking":[]}`, "", "", "", ""},
	} {
		for _, cloud := range []struct {
			known       known
			want, betas string
		}{{bedrockKnows, tc.bedrock, tc.betas}, {vertexKnows, tc.vertex, tc.vertexSet}} {
			if cloud.want == "" {
				cloud.want = tc.in
			}
			before := tc.header.Clone()
			got, dropped := cloud.known.filter(gateway.Call{Body: []byte(tc.in), Header: tc.header})
			if string(got.Body) != cloud.want || got.Header.Get("Anthropic-Beta") != cloud.betas {
				t.Errorf("%s: %s, flags %q\nwant %s, %q", name, got.Body, got.Header.Get("Anthropic-Beta"), cloud.want, cloud.betas)
			}
			if changed := cloud.want != tc.in; changed && len(dropped) == 0 || !reflect.DeepEqual(before, tc.header) {
				t.Errorf("%s: left out %v, header %v", name, dropped, tc.header)
			}
		}
	}
}

// Nested content must not cost its size once more for each level.
func TestNestedContentCostsLittleMemory(t *testing.T) {
	const depth, size = 30, 1 << 20
	nested := func(inner string) string {
		return `{"messages":[{"role":"user","content":[` + strings.Repeat(`{"type":"x","content":[`, depth) + inner + strings.Repeat(`]}`, depth) + `]}]}`
	}
	text := strings.Repeat("x", size)
	for name, body := range map[string]string{
		"a block":             nested(`{"type":"text","text":"` + text + `"}`),
		"a string":            nested(`"` + text + `"`),
		"with cache control":  nested(`{"type":"text","text":"` + text + `","cache_control":{"type":"ephemeral"}}`),
		"a name in a string":  nested(`"` + text + `\"cache_control\""`),
		"a string as content": nested(`{"content":"` + text + `","cache_control":{}}`),
	} {
		in := []byte(body)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, dropped := vertexKnows.filter(gateway.Call{Body: in, Header: http.Header{}})
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; cost > size/4 || len(dropped) > 0 || &got.Body[0] != &in[0] {
			t.Errorf("%s: %d KiB were allocated, left out %v", name, cost>>10, dropped)
		}
	}
}

func TestDroppedMembersAreLoggedOnce(t *testing.T) {
	m := &model{}
	b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, m)
	v := upstreamtest.NewVertex(t, "p", "us-east5", m)
	for name, r := range map[string]*rig{
		"bedrock": newRig(t, awsSecrets, bedrockEntry(b)),
		"vertex":  newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, vertexEntry(v)),
	} {
		for range 3 {
			if s := r.send(call(strings.Replace(testBody, `{"messages"`, `{"speed":"fast","messages"`, 1))); s.err != nil || s.body != wholeStream || strings.Contains(m.last(), "speed") {
				t.Fatalf("%s: %v %s", name, s, m.last())
			}
		}
		if n := strings.Count(r.logged(), "level=DEBUG"); n != 1 || !strings.Contains(r.logged(), "speed") || !strings.Contains(r.logged(), "one") {
			t.Errorf("%s: logged %d times\n%s", name, n, r.logged())
		}
	}
	if got := m.header.Values("Anthropic-Beta"); strings.Contains(strings.Join(got, ","), "one") {
		t.Errorf("flags: %v", got)
	}
	l := dropLog{logger: testLogger(&strings.Builder{})}
	for i := range 1000 {
		l.log([]string{strings.Repeat("x", i)})
	}
	if len(l.logged) > maxLogged {
		t.Errorf("%d names are remembered", len(l.logged))
	}
}

// FuzzKnown checks that the filtered body is valid and has only known members,
// and that inputs of tools are unchanged.
func FuzzKnown(f *testing.F) {
	f.Add([]byte(`{"messages":[{"role":"user","content":[{"cache_control":{"scope":1},"input":{"x":1}}],"y":2}],"tools":[{"a":1}],"x":1}`), "effort-2025-11-24, x")
	f.Add([]byte(` { "thinking" : {"display":1 , "type":"a"} , "system":[ {"cache_control":{}} ] } `), "")
	f.Fuzz(func(t *testing.T, body []byte, flags string) {
		if !json.Valid(body) {
			return
		}
		var before map[string]json.RawMessage
		if json.Unmarshal(body, &before) != nil || before == nil {
			return
		}
		got, dropped := bedrockKnows.filter(gateway.Call{Body: body, Header: http.Header{"Anthropic-Beta": {flags}}})
		var after map[string]json.RawMessage
		if err := json.Unmarshal(got.Body, &after); err != nil || after == nil {
			t.Fatalf("%q became %q: %v", body, got.Body, err)
		}
		for name := range after {
			if _, ok := before[name]; !ok {
				t.Fatalf("%q appeared in %q", name, got.Body)
			}
		}
		if len(dropped) > maxDropped || len(got.Body) > len(body) {
			t.Fatalf("%d names, %d bytes of %d", len(dropped), len(got.Body), len(body))
		}
		again, _ := bedrockKnows.filter(gateway.Call{Body: got.Body, Header: got.Header})
		if string(again.Body) != string(got.Body) {
			t.Fatalf("%q became %q", got.Body, again.Body)
		}
	})
}
