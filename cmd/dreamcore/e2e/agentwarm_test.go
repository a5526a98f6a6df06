package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// warmScript has one conversation for every job in a project. Each looks at what runs
// beside it, and the first one leaves a process behind.
const warmScript = `{"conversations":[
	[{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<p>one"}}]},
	 {"tools":[{"name":"Bash","input":{"command":"cat /proc/[0-9]*/comm | grep -c sleep; cat /proc/[0-9]*/comm | grep -c claude; (setsid sleep 1000 >/dev/null 2>&1 &); echo \"touch $PWD/owned\" >$HOME/.bashrc","description":"look and leave"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"cat /proc/[0-9]*/comm | grep -c sleep; cat /proc/[0-9]*/comm | grep -c claude; echo two >>index.html","description":"look"}}]},{"text":"done"}],
	[{"tools":[{"name":"Skill","input":{"skill":".claude:p5js"}}]},{"tools":[{"name":"Bash","input":{"command":"echo three >>index.html","description":"change"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"touch began; sleep 300","description":"wait"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"rm -f began; ls owned; echo five >>index.html","description":"change"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"echo six >>index.html","description":"change"}}]},{"text":"done"}]
]}`

// warmHost is a service in which agents may wait.
type warmHost struct {
	*host
	*service
	waits bool // agents are started ahead
	first bool // also in a standby sandbox, for users who have none
}

// agentWaits returns whether an agent waits in a user's sandbox.
func (h *warmHost) agentWaits(user string) bool {
	var list struct {
		Sandboxes []struct {
			Name string
			Warm bool `json:"agent_warm"`
		}
	}
	if err := json.Unmarshal([]byte(h.must("ps", "--json")), &list); err != nil {
		h.host.t.Fatal(err)
	}
	for _, sb := range list.Sandboxes {
		if sb.Name == "user-"+user {
			return sb.Warm
		}
	}
	return false
}

// settle waits for the agent that is started after a job, if there is to be one.
func (h *warmHost) settle(user string) {
	h.host.t.Helper()
	if h.waits {
		waitFor(h.host.t, "an agent that waits", func() bool { return h.agentWaits(user) })
	} else if h.agentWaits(user) {
		h.host.t.Error("an agent waits although none may")
	}
}

// game makes a game and returns its events. warm says that an agent waits for it.
func (h *warmHost) game(user, project, prompt string, warm bool) []map[string]any {
	t := h.host.t
	t.Helper()
	events := h.events("/generate_game", generateBody(user, project, prompt))
	last, debug := events[len(events)-1], events[len(events)-2]
	if last["type"] != "done" {
		t.Fatalf("%s: %v\n%s", prompt, last, h.log)
	}
	if debug["agent_warm"] != (warm && h.waits) {
		t.Errorf("%s: %v", prompt, debug)
	}
	return events
}

// plantSettings puts settings into a project that would run programs beside the agent.
func (h *warmHost) plantSettings(user, project string) {
	t := h.host.t
	t.Helper()
	events := h.events("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"notes.txt","content":"x"}]}`, user, project))
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Fatal(last)
	}
	dir := filepath.Join(h.state, "volumes/dreamcore-data/users", user, "projects", project)
	hook := `[{"matcher":"*","hooks":[{"type":"command","command":"echo hook >>` + "/data/users/" + user + "/projects/" + project + `/hooked"}]}]`
	for name, text := range map[string]string{
		".claude/settings.json": `{"hooks":{"SessionStart":` + hook + `,"UserPromptSubmit":` + hook + `,"PreToolUse":` + hook + `,"CwdChanged":` + hook + `}}`,
		".mcp.json":             `{"mcpServers":{"x":{"command":"touch","args":["` + "/data/users/" + user + "/projects/" + project + `/hooked"]}}}`,
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// said returns the results of the tools of a job.
func said(events []map[string]any) string {
	var b strings.Builder
	for _, e := range events {
		if e["type"] == "user" {
			raw, _ := json.Marshal(e["message"])
			b.Write(raw)
		}
	}
	return b.String()
}

// TestJobsAreTheSameWithAnAgentThatWaited follows one project through everything that
// happens to agents that wait, and does the same without them, and with one that waits
// for users who have no sandbox.
func TestJobsAreTheSameWithAnAgentThatWaited(t *testing.T) {
	for name, env := range map[string][]string{
		"warm": {"DREAMCORE_WARM_AGENTS=4"}, "cold": {"DREAMCORE_WARM_AGENTS=0"}, "first": {"DREAMCORE_WARM_AGENTS=4", "DREAMCORE_STANDBY_SANDBOXES=1"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &warmHost{host: newHost(t).unbounded(), waits: name != "cold", first: name == "first"}
			h.env = append(h.env, env...)
			skill := filepath.Join(h.state, "volumes/dreamcore-global/.claude/skills/p5js/SKILL.md")
			put := func(word string) {
				text := "---\nname: p5js\ndescription: How to set up p5.js\n---\nThe secret word is " + word + ".\n"
				if err := os.MkdirAll(filepath.Dir(skill), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(skill, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			put("marzipan")
			args := []string{"--model-script", writeScript(t, warmScript)}
			h.service = h.serve(args...)

			h.plantSettings(alice, project)
			if h.first {
				h.standby("") // and the first game is that of a user nobody has served
			} else if code, o := h.object("/prewarm_sandbox", fmt.Sprintf(`{"user_id":%q,"project_id":%q}`, alice, project)); code != 200 {
				t.Fatalf("%d %v", code, o)
			} else {
				h.settle(alice)
			}
			first := h.game(alice, project, "the first game", true)
			h.settle(alice)
			second := h.game(alice, project, "what an earlier job left", true)
			for _, got := range []string{said(first), said(second)} {
				if !strings.Contains(got, `"content":"0\n1"`) { // no sleep, one agent
					t.Errorf("processes: %s", got)
				}
			}

			h.settle(alice)
			put("nougat")
			if got := said(h.game(alice, project, "a skill that changed", false)); !strings.Contains(got, "nougat") {
				t.Errorf("the skill: %s", got)
			}

			h.settle(alice)
			w := h.watch(http.MethodPost, "/generate_game", generateBody(alice, project, "a job that is cancelled"))
			waitFor(t, "the agent's command", func() bool {
				_, err := os.Stat(filepath.Join(h.state, "volumes/dreamcore-data/users", alice, "projects", project, "began"))
				return err == nil
			})
			if code, o := h.object("/jobs/"+w.job+"/cancel", ""); code != 200 {
				t.Fatalf("%d %v", code, o)
			}
			if last := w.until(never); last["code"] != "CLI_TERMINATED" {
				t.Errorf("cancelled: %v", last)
			}

			h.stop()
			h.service = h.serve(args...)
			if got := said(h.game(alice, project, "the conversation goes on after a restart", false)); strings.Contains(got, "five") {
				t.Errorf("after a restart: %s", got)
			}
			if got := h.file(alice, project, "index.html"); !strings.Contains(got, "<p>one") || !strings.Contains(got, "two") || !strings.Contains(got, "three") || !strings.Contains(got, "five") {
				t.Errorf("the game: %q", got)
			}
			if got := h.file(alice, project, "hooked"); !strings.HasPrefix(got, "404") {
				t.Errorf("a setting of the project ran: %s", got)
			}
			if got := h.file(alice, project, "owned"); !strings.HasPrefix(got, "404") {
				t.Errorf("a file of the home ran: %s", got)
			}

			h.settle(alice)
			h.game(alice, otherProject, "another project", false)
			h.settle(alice)
			if r := h.run("sandbox", "exec", "user-"+alice, "--", "true"); r.code != 0 || h.agentWaits(alice) {
				t.Errorf("an agent waits beside a program of the operator: %+v", r)
			}
			h.game(alice, otherProject, "after a program of the operator", false)
			h.settle(alice)
			h.must("sandbox", "stop", "user-"+alice)
			h.game(alice, otherProject, "in a new sandbox", false)

			h.settle(alice)
			if code, answer := h.status(http.MethodDelete, "/projects/"+otherProject+"?user_id="+alice); code != 200 {
				t.Errorf("delete: %d %s", code, answer)
			}
			if h.agentWaits(alice) {
				t.Error("an agent waits for a project that is gone")
			}
			h.game(alice, otherProject, "a project with the id of one that is gone", false)
			h.settle(alice)
			if code, answer := h.status(http.MethodDelete, "/users/"+alice); code != 200 {
				t.Errorf("delete the user: %d %s", code, answer)
			}
			if h.first {
				h.standby("")
			}
			h.game(alice, project, "a user with the id of one who is gone", h.first)
		})
	}
}

// TestTheTimeAndMoneyOfAJobBeginWithTheJob lets agents wait for longer than a job may
// take.
func TestTheTimeAndMoneyOfAJobBeginWithTheJob(t *testing.T) {
	for name, count := range map[string]string{"warm": "4", "cold": "0"} {
		t.Run(name, func(t *testing.T) {
			h := &warmHost{host: newHost(t), waits: name == "warm"}
			h.env = append(h.env, "DREAMCORE_WARM_AGENTS="+count, "DREAMCORE_TIMEOUT=20s", "DREAMCORE_BUDGET_JOB_TOKENS=60000")
			h.service = h.serve("--model-script", writeScript(t, `{"conversations":[
				[{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<p>one"}}]},{"text":"done"}],
				[{"tools":[{"name":"Bash","input":{"command":"echo two >>index.html","description":"change"}}]},{"text":"done"}],
				[`+strings.Repeat(`{"tools":[{"name":"Bash","input":{"command":"sleep 7","description":"wait"}}]},`, 5)+`{"text":"done"}]
			]}`))
			h.game(alice, project, "the first game", false)
			h.settle(alice)
			if h.waits {
				time.Sleep(22 * time.Second) // longer than a job may take
			}
			h.game(alice, project, "after the time of a job", true)
			h.settle(alice)
			events := h.events("/generate_game", generateBody(alice, project, "a job that takes too long"))
			last, debug := events[len(events)-1], events[len(events)-2]
			if last["code"] != "CLI_TIMEOUT" && last["code"] != "RATE_LIMIT" || debug["agent_warm"] != h.waits || debug["cost_usd"].(float64) <= 0 {
				t.Errorf("%v %v", debug, last)
			}
		})
	}
}

// TestAgentsThatWaitUnderLoad edits games as fast as it can while the processors are
// busy: jobs meet agents that are just being started, that wait, and none.
func TestAgentsThatWaitUnderLoad(t *testing.T) {
	h := &warmHost{host: newHost(t), waits: true}
	h.env = append(h.env, "DREAMCORE_WARM_AGENTS=3", "DREAMCORE_MAX_GENERATIONS=6") // a slot is free for starts
	h.service = h.serve("--model-script", "demo")
	const rounds = 3
	stop := make(chan struct{})
	var busy, users sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	var mu sync.Mutex
	warm := 0
	for n := range 5 {
		users.Go(func() {
			user := fmt.Sprintf("a11ce000-0000-4000-8000-%012d", n+100)
			for i := range rounds {
				time.Sleep(time.Duration(i*n%5) * 500 * time.Millisecond)
				events := h.events("/generate_game", generateBody(user, project, fmt.Sprint("round ", i)))
				last, debug := events[len(events)-1], events[len(events)-2]
				mu.Lock()
				if debug["agent_warm"] == true {
					warm++
				}
				mu.Unlock()
				if last["type"] != "done" || debug["elapsed_seconds"].(float64) > 200 {
					t.Errorf("user %d, round %d: %v %v", n, i, debug, last)
				}
			}
		})
	}
	users.Wait()
	close(stop)
	busy.Wait()
	t.Logf("%d of %d jobs had an agent that waited", warm, 5*rounds)
	if warm == 0 {
		t.Error("no job had an agent that waited")
	}
}
