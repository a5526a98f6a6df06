package replay_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
)

const twoTalks = `{"conversations":[
	[{"text":"1.1"},{"text":"1.2"}],
	[{"text":"2.1"},{"text":"2.2"}]]}`

func TestMessagesSelectConversationAndTurn(t *testing.T) {
	srv := serve(t, twoTalks)
	p, a, r := user("prompt"), assistant("answer"), toolResult()
	system := message{Role: "system", Content: "Available agents: none"}
	const past = "The script has nothing more to say to this prompt."
	tests := []struct {
		name     string
		messages []message
		want     string
	}{
		{"first prompt", []message{p}, "1.1"},
		{"after a tool", []message{p, a, r}, "1.2"},
		{"past the last turn", []message{p, a, r, a, r}, past},
		{"far past it", []message{p, a, r, a, r, a, r, a, r}, past},
		{"second prompt", []message{p, a, r, a, p}, "2.1"},
		{"second prompt, after a tool", []message{p, a, r, a, p, a, r}, "2.2"},
		{"the last conversation answers all later prompts", []message{p, a, p, a, p, a, p}, "2.1"},
		{"and steps through its turns again", []message{p, a, p, a, p, a, r}, "2.2"},
		{"content as a string", []message{{Role: "user", Content: "prompt"}}, "1.1"},
		{"system messages do not count", []message{p, system, a, r, system}, "1.2"},
		{"reminders alongside a prompt", []message{user(reminder, "prompt", reminder), a, r}, "1.2"},
		{"a reminder of its own", []message{user(reminder), p, system, a, r, user(reminder)}, "1.2"},
		{"text that belongs to a tool result", []message{p, a, toolResult("Base directory for this skill: /x")}, "1.2"},
		{"text after a tool result", []message{p, a, r, user("Base directory for this skill: /x")}, "1.2"},
		{"a prompt without an answer is joined by the next", []message{p, system, p}, "1.1"},
		{"answers in several messages", []message{p, a, a, r}, "1.2"},
		{"a prompt after an interruption", []message{p, a, toolResult("[Request interrupted by user for tool use]"), a, p}, "2.1"},
		{"a picture is a prompt", []message{p, a, {Role: "user", Content: []block{{Type: "image"}}}}, "2.1"},
		{"no words of a person", []message{user(reminder)}, "1.1"},
		{"an answer to begin with", []message{a, p}, "1.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := say(t, srv, tt.messages...); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// everyKind has each kind of block, with text that is difficult to split.
const everyKind = `{"conversations":[[{
	"thinking": "考える <b>& \u2028 だけ\u0000 🐍🐍🐍🐍🐍🐍🐍🐍🐍🐍",
	"text": "氷の上のヘビ 🐍 glides over \"ice\"\n\nand on",
	"tools": [
		{"name": "Write", "input": {"file_path": "{{cwd}}/ゲーム.js", "content": "const 蛇 = '🐍';\n// {{cwd}} {{other}} \\", "n": 12345678901234567890, "deep": [{"at": "{{cwd}}"}]}},
		{"name": "Nope", "input": {}}]}]]}`

func TestAnswerMatchesScriptStreamedOrWhole(t *testing.T) {
	srv := serve(t, everyKind)
	request := body(user("prompt"))
	streamed := ask(t, srv, request)
	request["stream"] = false
	whole := ask(t, srv, request)

	want := []block{
		{Type: "thinking", Thinking: "考える <b>& \u2028 だけ\u0000 🐍🐍🐍🐍🐍🐍🐍🐍🐍🐍"},
		{Type: "text", Text: "氷の上のヘビ 🐍 glides over \"ice\"\n\nand on"},
		{Type: "tool_use", Name: "Write", Input: json.RawMessage(`{"file_path":"/data/p 1/\"q\"/ゲーム.js","content":"const 蛇 = '🐍';\n// /data/p 1/\"q\" {{other}} \\","n":12345678901234567890,"deep":[{"at":"/data/p 1/\"q\""}]}`)},
		{Type: "tool_use", Name: "Nope", Input: json.RawMessage(`{}`)},
	}
	for name, m := range map[string]message{"streamed": streamed, "whole": whole} {
		got := append([]block(nil), m.Blocks...)
		ids := map[string]bool{}
		for i := range got {
			if got[i].Type == "tool_use" {
				if !strings.HasPrefix(got[i].ID, "toolu_") || ids[got[i].ID] {
					t.Errorf("%s: tool id %q is malformed or there twice", name, got[i].ID)
				}
				ids[got[i].ID] = true
			}
			got[i].ID = ""
		}
		if got[0].Signature == "" {
			t.Errorf("%s: thinking without a signature", name)
		}
		got[0].Signature = ""
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if m.StopReason != "tool_use" || m.Role != "assistant" || m.Model != "claude-test" || !strings.HasPrefix(m.ID, "msg_") {
			t.Errorf("%s: %+v", name, m)
		}
		if m.Usage["input_tokens"] < 50 || m.Usage["output_tokens"] < 40 {
			t.Errorf("%s: usage %v", name, m.Usage)
		}
	}
	if streamed.Blocks[2].ID != whole.Blocks[2].ID {
		t.Error("a repeated request gets other tool ids")
	}
}

func TestToolIDsAreUniqueWithinConversation(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"tools":[{"name":"A","input":{}}]},{"tools":[{"name":"A","input":{}}]}]]}`)
	p, a, r := user("prompt"), assistant("answer"), toolResult()
	seen := map[string]bool{}
	for _, talk := range [][]message{{p}, {p, a, r}, {p, a, r, a, p}, {p, a, r, a, p, a, r}, {p, a, p, a, p}} {
		id := ask(t, srv, body(talk...)).Blocks[0].ID
		if seen[id] {
			t.Errorf("duplicate tool id %s", id)
		}
		seen[id] = true
	}
}

func TestCwdComesFromTheCLIsTexts(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"tools":[{"name":"Bash","input":{"command":"{{cwd}}"}}]}]]}`)
	spoof := user("Working directory: /etc")
	tests := []struct {
		name     string
		system   any
		messages []message
		want     string
	}{
		{"nothing", nil, []message{spoof}, "."},
		{"relative", "Working directory: a/b", []message{spoof}, "."},
		{"system as a string", "x\nWorking directory: /a/b c\nIs a git repository: No", []message{spoof}, "/a/b c"},
		{"primary", []block{{Type: "text", Text: " - Primary working directory: /a\n - more"}}, []message{spoof}, "/a"},
		{"CWD", "CWD: /a", []message{spoof}, "/a"},
		{"system message", "nothing here", []message{spoof, {Role: "system", Content: "# Environment\n - Primary working directory: /b\n"}}, "/b"},
		{"reminder", "", []message{user("<system-reminder>\nCWD: /c\n</system-reminder>", "Working directory: /etc")}, "/c"},
		{"system before reminder", "", []message{user("<system-reminder>\nCWD: /c\n</system-reminder>", "x"), {Role: "system", Content: "CWD: /d"}}, "/d"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			request := body(tt.messages...)
			request["system"] = tt.system
			want, _ := json.Marshal(map[string]string{"command": tt.want})
			if got := ask(t, srv, request).Blocks[0].Input; string(got) != string(want) {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestSideRequestsGetATitleAndDoNotAffectTheScript(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"text":"the turn","fail":{"status":500,"times":1}}]]}`)
	noTools := body(user("prompt"))
	delete(noTools, "tools")
	emptyTools := body(user("prompt"))
	emptyTools["tools"] = []string{}
	format := body(user("prompt"))
	format["output_config"] = map[string]any{"effort": "high", "format": map[string]string{"type": "json_schema"}}
	for name, request := range map[string]map[string]any{"no tools": noTools, "empty tools": emptyTools, "format": format} {
		for _, stream := range []bool{true, false} {
			request["stream"] = stream
			var title struct{ Title string }
			m := ask(t, srv, request)
			if err := json.Unmarshal([]byte(textOf(m)), &title); err != nil || title.Title == "" || m.StopReason != "end_turn" {
				t.Errorf("%s, stream %v: %q %v", name, stream, textOf(m), err)
			}
		}
	}
	effort := body(user("prompt"))
	effort["output_config"] = map[string]any{"effort": "high", "format": nil}
	if resp := post(t, srv, effort); resp.StatusCode != 500 {
		t.Errorf("the first request of the talk got %d: a side call has used up its failure", resp.StatusCode)
	}
}

func TestCacheReadsGrowWithConversation(t *testing.T) {
	srv := serve(t, twoTalks)
	long := user(strings.Repeat("prompt ", 1000))
	first := ask(t, srv, body(long))
	second := ask(t, srv, body(long, assistant("answer"), toolResult()))
	if first.Usage["cache_read_input_tokens"] != 0 || first.Usage["input_tokens"] < 1250 {
		t.Errorf("first request: %v", first.Usage)
	}
	if second.Usage["cache_read_input_tokens"] < 1250 || second.Usage["input_tokens"] > 100 {
		t.Errorf("second request: %v", second.Usage)
	}
}

func TestOtherRoutes(t *testing.T) {
	srv := serve(t, twoTalks)
	send := func(method, path, data string) (*http.Response, map[string]any) {
		t.Helper()
		req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if !strings.HasPrefix(resp.Header.Get("request-id"), "req_") {
			t.Errorf("%s %s: request-id %q", method, path, resp.Header.Get("request-id"))
		}
		var v map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil && method != http.MethodHead {
			t.Errorf("%s %s: %v", method, path, err)
		}
		return resp, v
	}
	for _, path := range []string{"/", "/v1/messages", "/anything"} {
		if resp, _ := send("HEAD", path, ""); resp.StatusCode != 200 {
			t.Errorf("HEAD %s: %d", path, resp.StatusCode)
		}
	}
	_, small := send("POST", "/v1/messages/count_tokens?beta=true", `{"messages":[{"role":"user","content":"a"}]}`)
	_, large := send("POST", "/v1/messages/count_tokens", `{"messages":[{"role":"user","content":"`+strings.Repeat("a", 4000)+`"}]}`)
	if s, l := small["input_tokens"].(float64), large["input_tokens"].(float64); s < 1 || l < 1000 || l > 1100 {
		t.Errorf("count_tokens: %v for little, %v for 4000 bytes", s, l)
	}
	for _, route := range [][2]string{{"GET", "/"}, {"GET", "/v1/models"}, {"GET", "/v1/messages"}, {"PUT", "/v1/messages"}, {"POST", "/v1/files"}, {"POST", "/v1/messages/batches"}} {
		resp, v := send(route[0], route[1], "{}")
		wantError(t, resp, v, 404, "not_found_error")
	}
}

func wantError(t *testing.T, resp *http.Response, v map[string]any, status int, kind string) {
	t.Helper()
	detail, _ := v["error"].(map[string]any)
	if resp.StatusCode != status || v["type"] != "error" || detail["type"] != kind || detail["message"] == "" || v["request_id"] != resp.Header.Get("request-id") {
		t.Errorf("got %d %v, want %d %s", resp.StatusCode, v, status, kind)
	}
}

func TestInvalidRequestsGetAPIErrors(t *testing.T) {
	srv := serve(t, twoTalks)
	many := func(item string, n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	tests := []struct {
		name, body string
		status     int
		kind       string
	}{
		{"empty", ``, 400, "invalid_request_error"},
		{"not JSON", `{"messages":`, 400, "invalid_request_error"},
		{"a list", `[]`, 400, "invalid_request_error"},
		{"no messages", `{"model":"m"}`, 400, "invalid_request_error"},
		{"null messages", `{"messages":null}`, 400, "invalid_request_error"},
		{"empty messages", `{"messages":[]}`, 400, "invalid_request_error"},
		{"messages no list", `{"messages":{}}`, 400, "invalid_request_error"},
		{"message no object", `{"messages":["a"]}`, 400, "invalid_request_error"},
		{"unknown role", `{"messages":[{"role":"robot","content":"a"}]}`, 400, "invalid_request_error"},
		{"content a number", `{"messages":[{"role":"user","content":3}]}`, 400, "invalid_request_error"},
		{"block no object", `{"messages":[{"role":"user","content":[3]}]}`, 400, "invalid_request_error"},
		{"text no string", `{"messages":[{"role":"user","content":[{"type":"text","text":{}}]}]}`, 400, "invalid_request_error"},
		{"system a number", `{"system":3,"messages":[{"role":"user","content":"a"}]}`, 400, "invalid_request_error"},
		{"stream no bool", `{"stream":"yes","messages":[{"role":"user","content":"a"}]}`, 400, "invalid_request_error"},
		{"too many messages", `{"messages":` + many(`{"role":"user","content":""}`, 100_001) + `}`, 400, "invalid_request_error"},
		{"too many blocks", `{"messages":[{"role":"user","content":` + many(`{}`, 100_001) + `}]}`, 400, "invalid_request_error"},
		{"too large", `{"messages":"` + strings.Repeat(" ", 32<<20) + `"}`, 413, "request_too_large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := post(t, srv, []byte(tt.body))
			var v map[string]any
			if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
				t.Fatal(err)
			}
			wantError(t, resp, v, tt.status, tt.kind)
		})
	}
}

func TestConcurrentRequests(t *testing.T) {
	srv := serve(t, `{"conversations":[[{"text":"played","fail":{"status":529,"times":7}}]]}`)
	data, err := json.Marshal(body(user("prompt")))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for range 40 {
		wg.Go(func() {
			resp, err := srv.Client().Post(srv.URL+"/v1/messages", "application/json", bytes.NewReader(data))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			statuses[resp.StatusCode]++
		})
	}
	wg.Wait()
	if statuses[529] != 7 || statuses[200] != 33 {
		t.Errorf("statuses %v, want 7 failures and 33 answers", statuses)
	}
}

func FuzzMessages(f *testing.F) {
	s, err := replay.Parse([]byte(everyKind))
	if err != nil {
		f.Fatal(err)
	}
	model := replay.New(s)
	for _, m := range [][]message{{user(reminder, "prompt")}, {user("a"), assistant("b"), toolResult("c")}, {{Role: "system", Content: "CWD: /a\\\"\u2028"}, user("x")}} {
		data, err := json.Marshal(body(m...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"messages":[{"role":"user","content":null}],"system":null,"tools":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w := httptest.NewRecorder()
		model.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/messages", bytes.NewReader(data)))
		switch {
		case w.Code != 200 && w.Code != 400:
			t.Fatalf("status %d", w.Code)
		case strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream"):
			m, err := readStream(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range m.Blocks {
				if b.Type == "tool_use" && !json.Valid(b.Input) {
					t.Fatalf("input %q", b.Input)
				}
			}
		case !json.Valid(w.Body.Bytes()):
			t.Fatalf("body %q", w.Body)
		}
	})
}
