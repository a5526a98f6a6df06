package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// promptRequests has a request for each embedded prompt endpoint and a member
// that its answer must have.
var promptRequests = []struct{ name, body, member string }{
	{"detect_intent", `{"message":"make it faster"}`, "intent"},
	{"detect_skills", `{"message":"a snake game","dimension":"3d","existing_code":""}`, "skills"},
	{"chat_haiku", `{"message":"hi","game_spec":"s","conversation_history":[{"role":"user","content":"x"}]}`, "suggestions"},
	{"chat_sonnet", `{"message":"hi","raw_output":true}`, "result"},
	{"generate_publish_info", `{"user_id":"` + alice + `","project_id":"` + project + `","project_name":"p","game_code":"c","spec_content":"s"}`, "howToPlay"},
	{"v2_detect_intent", `{"message":"元に戻して"}`, "intent"},
	{"v2_chat_haiku", `{"prompt":"hi"}`, "result"},
	{"v2_generate_code", `{"user_id":"` + alice + `","project_id":"` + project + `","prompt":"a ball"}`, "files"},
}

func TestPromptEndpointsOfAService(t *testing.T) {
	h := newHost(t).unbounded()
	skill := filepath.Join(h.state, "volumes/dreamcore-global/.claude/skills/threejs-setup")
	if err := os.MkdirAll(skill, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(skill, "SKILL.md"), []byte("---\ndescription: sets three.js up\n---\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := h.serve("--model-script", "demo")
	for _, p := range promptRequests {
		for _, path := range []string{"/" + p.name, "/" + strings.ReplaceAll(p.name, "_", "-")} {
			status, body := s.object(path, p.body)
			if status != http.StatusOK || body[p.member] == nil || body["fallback"] != nil {
				t.Errorf("%s: status %d, %v", path, status, body)
			}
		}
		if status, body := s.object("/"+p.name, "{}"); status != http.StatusBadRequest || !strings.HasSuffix(fmt.Sprint(body["error"]), " is required") {
			t.Errorf("%s without fields: status %d, %v", p.name, status, body)
		}
	}
	for message, want := range map[string]string{"make a game": "edit", "how do I play?": "chat", "undo that": "restore"} {
		if _, body := s.object("/detect_intent", `{"message":"`+message+`"}`); body["intent"] != want {
			t.Errorf("%q: %v", message, body)
		}
	}
	if _, body := s.object("/detect_skills", promptRequests[1].body); fmt.Sprint(body["skills"]) != "[threejs-setup]" {
		t.Errorf("skills: %v", body)
	}

	s.promptsBesideAGame()
	s.promptFiles()

	if out := h.must("usage", "--by", "user", "--csv"); !strings.Contains(out, "\nprompts,") || !strings.Contains(out, "\n"+alice+",") {
		t.Errorf("charged: %s", out)
	}
	if out := h.must("audit", "--job", "prompt:v2_generate_code"); !strings.Contains(out, "allowed model         user="+alice) {
		t.Errorf("the audit log: %s", out)
	}
}

// promptsBesideAGame makes 50 calls at once while a game is made.
func (s *service) promptsBesideAGame() {
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			resp := s.post("/detect_intent", `{"message":"make it faster"}`)
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				s.h.t.Errorf("beside a game: %s", resp.Status)
			}
		})
	}
	events := s.events("/generate_game", generateBody(alice, project, "a snake game"))
	if last := events[len(events)-1]; last["type"] != "done" {
		s.h.t.Errorf("the game ended with %v", last)
	}
	all.Wait()
}

// promptFiles replaces an endpoint, adds one and breaks one while serving.
func (s *service) promptFiles() {
	h, t := s.h, s.h.t
	file := func(name, text string) {
		local := filepath.Join(t.TempDir(), name+".yaml")
		if err := os.WriteFile(local, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		h.must("volume", "put", "--force", "dreamcore-global", local, "prompts/"+name+".yaml")
	}
	const own = "model: haiku\nprompt: x\nanswer: {kind: text, key: own}\nfailure: {status: 500, body: {error: x}}\n"
	answers := func(path, member string) bool {
		// A change takes effect within a second.
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if _, body := s.object(path, `{"message":"m","prompt":"p"}`); body[member] != nil {
				return true
			}
		}
		return false
	}
	file("name_ideas", own)
	file("v2_chat_haiku", own)
	if !answers("/name-ideas", "own") || !answers("/v2_chat_haiku", "own") {
		t.Error("files are not taken up")
	}
	h.must("prompts", "check")
	file("v2_chat_haiku", "model: [")
	file("generate_game", own)
	if r := h.run("prompts", "check"); r.code != 1 || !strings.Contains(r.stdout, "prompts/v2_chat_haiku.yaml") || !strings.Contains(r.stdout, "prompts/generate_game.yaml") {
		t.Errorf("check: %+v", r)
	}
	if r := h.run("doctor", "--listen", "127.0.0.1:0"); !strings.Contains(r.stdout+r.stderr, "prompts/generate_game.yaml") {
		t.Errorf("doctor: %+v", r)
	}
	if !answers("/v2_chat_haiku", "own") {
		t.Error("the last good version is gone")
	}
	if events := s.events("/generate_game", generateBody(alice, project, "faster")); events[len(events)-1]["type"] != "done" {
		t.Errorf("generate_game is hidden: %v", events[len(events)-1])
	}
	if r := h.run("prompts", "run", "name_ideas", "--model-script", "demo", "--json"); r.code != 0 || !strings.Contains(r.stdout, `"own"`) {
		t.Errorf("run: %+v", r)
	}
}
