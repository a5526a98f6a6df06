package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// scenes are the conversations of the agent's model in the session of the front
// end; SCENE:name in a prompt selects one.
var scenes = map[string]string{
	"create": `[{"tools":[{"name":"Read","input":{"file_path":".claude/skills/p5js-setup/SKILL.md"}}]},
		{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<script src=game.js></script>"}},
		          {"name":"Write","input":{"file_path":"{{cwd}}/game.js","content":"// create\n"}}]},{"text":"done"}]`,
	"edit": `[{"tools":[{"name":"Bash","input":{"command":"echo '// edit' >>game.js","description":"edit"}}]},{"text":"done"}]`,
	"slow": `[{"tools":[{"name":"Bash","input":{"command":"echo slow >slow.txt; sleep 300","description":"wait"}}]},{"text":"done"}]`,
	"next": `[{"tools":[{"name":"Bash","input":{"command":"echo '// next' >>game.js","description":"edit"}}]},{"text":"done"}]`,
}

var (
	sceneMark  = regexp.MustCompile(`SCENE:(\w+)`)
	answerMark = regexp.MustCompile(`(?s)ANSWER<<(.*)>>`)
)

// frontEndModel is a model API that plays the scene, or the answer to a prompt
// endpoint, that the newest message of a request names.
func frontEndModel(t *testing.T) *httptest.Server {
	t.Helper()
	play := func(conversation string) http.Handler {
		script, err := replay.Parse([]byte(`{"conversations":[` + conversation + `]}`))
		if err != nil {
			t.Error(err)
			return http.NotFoundHandler()
		}
		return replay.New(script)
	}
	agent := map[string]http.Handler{}
	for name, scene := range scenes {
		agent[name] = play(scene)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		text := textOf(body)
		found := sceneMark.FindAllStringSubmatch(text, -1)
		switch {
		case strings.Contains(text, "FAIL<<>>"):
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"type":"error","error":{"type":"api_error","message":"as asked for"}}`)
		case answerMark.MatchString(text):
			say(w, bytes.Contains(body, []byte(`"stream":true`)), answerMark.FindStringSubmatch(text)[1])
		case len(found) > 0 && agent[found[len(found)-1][1]] != nil:
			agent[found[len(found)-1][1]].ServeHTTP(w, r)
		default:
			play(`[{"text":"Ready."}]`).ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// say answers a request for the model with a text.
func say(w http.ResponseWriter, stream bool, text string) {
	quoted, _ := json.Marshal(text)
	message := func(content, stop string) string {
		return `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":` + content + `,"stop_reason":` + stop + `,"stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":5}}`
	}
	if !stream {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, message(`[{"type":"text","text":`+string(quoted)+`}]`, `"end_turn"`))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, e := range [][2]string{
		{"message_start", `"message":` + message("[]", "null")},
		{"content_block_start", `"index":0,"content_block":{"type":"text","text":""}`},
		{"content_block_delta", `"index":0,"delta":{"type":"text_delta","text":` + string(quoted) + `}`},
		{"content_block_stop", `"index":0`},
		{"message_delta", `"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5}`},
		{"message_stop", ""},
	} {
		fmt.Fprintf(w, "event: %[1]s\ndata: {%[2]s}\n\n", e[0], strings.TrimSuffix(fmt.Sprintf(`"type":%q,%s`, e[0], e[1]), ","))
	}
}

// textOf returns the texts of all messages of a request for the model.
func textOf(body []byte) string {
	var request struct {
		Messages []struct {
			Content any `json:"content"`
		} `json:"messages"`
	}
	_ = json.Unmarshal(body, &request)
	var b strings.Builder
	for _, m := range request.Messages {
		blocks, ok := m.Content.([]any)
		if !ok {
			blocks = []any{map[string]any{"text": m.Content}}
		}
		for _, block := range blocks {
			if o, ok := block.(map[string]any); ok {
				fmt.Fprintln(&b, o["text"])
			}
		}
	}
	return b.String()
}

// TestAFrontEndWorksUnchanged runs a client that was written for the HTTP contract
// alone: each of its checks is a test.
func TestAFrontEndWorksUnchanged(t *testing.T) {
	h := newHost(t)
	h.prepareFrontEnd(frontEndModel(t).URL)
	h.serve().frontEnd()
}

// prepareFrontEnd gives an installation what the client expects: skills, and the
// model.
func (h *host) prepareFrontEnd(model string) {
	h.t.Helper()
	for _, engine := range []string{"p5js-setup", "p5js-input", "p5js-collision", "threejs-setup", "threejs-input", "threejs-lighting"} {
		dir := filepath.Join(h.state, "volumes/dreamcore-global/.claude/skills", engine)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			h.t.Fatal(err)
		}
		text := fmt.Sprintf("---\nname: %[1]s\ndescription: Use %[1]s\n---\nHow %[1]s is used.\n", engine)
		if err := os.WriteFile(filepath.Join(dir, "SKILL.md"), []byte(text), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
	h.configure(fmt.Sprintf("upstreams:\n  - {name: scripted, kind: anthropic, base_url: %q, api_key: none}\n", model))
}

// frontEnd runs the client against a service.
func (s *service) frontEnd() {
	t := s.h.t
	node, err := exec.LookPath("node")
	sandboxtest.Need(t, err == nil, "node")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, "testdata/frontend.mjs", s.url)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "SECRET=" + s.secret}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Run()
	checks := 0
	for line := range strings.Lines(said.String()) {
		check := strings.Split(strings.TrimSpace(line), "\t")
		if len(check) < 2 {
			t.Log(line)
			continue
		}
		checks++
		t.Run(check[1], func(t *testing.T) {
			if check[0] != "ok" {
				t.Error(check)
			}
		})
	}
	if checks == 0 || err != nil && !t.Failed() {
		t.Errorf("%v after %d checks\n%s", err, checks, said.String())
	}
}
