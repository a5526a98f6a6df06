package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// marksScript leaves marks everywhere, then searches for them.
const marksScript = `{"conversations":[
	[{"tools":[{"name":"Bash","input":{"command":"mkdir -p /tmp/a/b; echo x >/tmp/a/b/c; chmod 0 /tmp/a/b; echo x >/dev/shm/y; echo x >$HOME/left; for f in .bashrc .bash_profile .profile; do echo \"touch $PWD/owned\" >$HOME/$f; done; (setsid sleep 1000 >/dev/null 2>&1 &); echo x >game.txt","description":"leave marks"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"ls -A /tmp | grep -v -e claude -e cc-socks >seen.txt; ls -A /dev/shm >>seen.txt; ps -e -o comm= 2>/dev/null | grep sleep >>seen.txt; ls $HOME >>seen.txt; bash -lic true 2>/dev/null; ls owned 2>/dev/null >>seen.txt; grep -q 'leave [m]arks' $HOME/.claude/projects/*/*.jsonl && echo resumed >>seen.txt; cat game.txt >>seen.txt; true","description":"look for marks"}}]},{"text":"done"}]
]}`

func TestBetweenTwoJobsOfAUserNothingStaysButProjectAndConversation(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", writeScript(t, marksScript))
	for i := range 2 {
		events := s.events("/generate_game", generateBody(alice, project, "go on"))
		last, debug := events[len(events)-1], events[len(events)-2]
		if last["type"] != "done" || debug["sandbox_reused"] != (i == 1) {
			t.Fatalf("job %d: %v %v\n%s", i, last, debug, s.log)
		}
	}
	seen := h.must("sandbox", "exec", "user-"+alice, "--", "cat", project+"/seen.txt")
	if seen != "resumed\nx\n" {
		t.Errorf("the second job sees %q", seen)
	}
}

func TestSandboxesCanBeListedEnteredAndStopped(t *testing.T) {
	h := newHost(t)
	if r := h.run("ps"); r.code != 3 || !strings.Contains(r.stderr, "dreamcore serve") {
		t.Errorf("without a service: %+v", r)
	}
	h.env = append(h.env, "DREAMCORE_SPARE_SANDBOXES=0")
	s := h.serve("--model-script", "demo")
	if out := h.must("ps"); !strings.Contains(out, "no sandboxes") {
		t.Errorf("at first: %q", out)
	}
	for _, want := range []string{"warmed", "already_warm"} {
		if code, o := s.object("/prewarm_sandbox", fmt.Sprintf(`{"user_id":%q}`, alice)); code != 200 || o["status"] != want || o["sandbox_name"] != "user-"+alice {
			t.Errorf("%d %v", code, o)
		}
	}
	var list struct {
		Sandboxes []struct{ Name, Sandbox, State string }
	}
	if err := json.Unmarshal([]byte(h.must("ps", "--json")), &list); err != nil || len(list.Sandboxes) != 1 || list.Sandboxes[0].Name != "user-"+alice || list.Sandboxes[0].State != "idle" {
		t.Errorf("%v %+v", err, list)
	}
	name := "user-" + alice
	r := h.runIn("what I say", "sandbox", "exec", "-i", name, "--", "sh", "-c", "cat; id -u; echo bad >&2; exit 7")
	if r.code != 7 || r.stdout != "what I say10000\n" || r.stderr != "bad\n" {
		t.Errorf("exec: %+v", r)
	}
	if events := s.events("/generate_game", generateBody(alice, project, "a snake game")); events[len(events)-2]["sandbox_reused"] != true {
		t.Errorf("the prewarmed sandbox was not used: %v", events[len(events)-2])
	}
	if out := h.must("sandbox", "logs", name); !strings.HasSuffix(out, "{\"type\":\"done\",\"exit_code\":0}\n") {
		t.Errorf("logs: %q", out)
	}
	h.must("sandbox", "stop", name)
	for _, args := range [][]string{{"stop", name}, {"logs", name}, {"exec", name, "--", "true"}, {"stop", "../x"}} {
		if r := h.run(append([]string{"sandbox"}, args...)...); r.code != 1 || !strings.Contains(r.stderr, "dreamcore ps") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

// TestStandbySandboxAnswersChecks checks that each standby sandbox is used once and
// replaced by itself.
func TestStandbySandboxAnswersChecks(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	first := h.spare("")
	if code, o := s.object("/test_sandbox_io", ""); code != 200 || o["match"] != true {
		t.Errorf("%d %v", code, o)
	}
	second := h.spare(first)
	if code, o := s.object("/test_gvisor", ""); code != 200 || o["is_gvisor"] != true {
		t.Errorf("%d %v", code, o)
	}
	h.spare(second)
	for _, args := range [][]string{{"stop", "spare"}, {"logs", "spare"}, {"exec", "spare", "--", "true"}} {
		if r := h.run(append([]string{"sandbox"}, args...)...); r.code != 1 || !strings.Contains(r.stderr, "spare_sandboxes") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	// A job never gets it.
	before := h.spare(second)
	if events := s.events("/generate_game", generateBody(alice, project, "a snake game")); events[len(events)-1]["type"] != "done" || events[len(events)-2]["sandbox_reused"] != false {
		t.Errorf("%v", events[len(events)-2:])
	}
	if after := h.spare(second); after != before {
		t.Errorf("spare %s became %s beside a job", before, after)
	}
}

// standby waits for a standby sandbox with another id and returns its id.
func (h *host) spare(not string) string {
	h.t.Helper()
	var list struct {
		Sandboxes []struct{ Name, Sandbox, State, User string }
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err := json.Unmarshal([]byte(h.must("ps", "--json")), &list); err != nil {
			h.t.Fatal(err)
		}
		for _, sb := range list.Sandboxes {
			if sb.State == "spare" && sb.Name == "spare" && sb.User == "" && sb.Sandbox != not {
				return sb.Sandbox
			}
		}
	}
	h.t.Fatalf("no spare sandbox but %q comes: %+v", not, list)
	return ""
}
