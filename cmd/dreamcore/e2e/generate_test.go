package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	alice   = "a11ce000-0000-4000-8000-000000000001"
	bob     = "b0b00000-0000-4000-8000-000000000002"
	project = "123e4567-e89b-42d3-a456-426614174000"
)

// waitFor waits until a condition of another process holds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	waitUpTo(t, 30*time.Second, what, ok)
}

func waitUpTo(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestGenerateMakesAndEditsAGame(t *testing.T) {
	h := newHost(t).unbounded()
	out := filepath.Join(t.TempDir(), "game")
	told := h.must("generate", "a snake game with ice physics", "--project", project, "-o", out)
	for _, s := range []string{"demo", "index.html", "game.js", "style.css", "The game is done", project} {
		if !strings.Contains(told, s) {
			t.Errorf("it does not tell of %q:\n%s", s, told)
		}
	}
	if strings.ContainsRune(told, '\x1b') {
		t.Error("escapes in a pipe")
	}
	first := readGame(t, out)
	if len(first) != 3 {
		t.Errorf("the game has %d files", len(first))
	}

	// The second prompt continues the conversation and edits the game.
	events := h.must("generate", "make it faster", "--project", project, "--json")
	var types []string
	session := ""
	for line := range strings.Lines(events) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("event %q: %v", line, err)
		}
		types = append(types, e["type"].(string))
		if id, ok := e["session_id"].(string); ok {
			session = id
		}
	}
	if types[len(types)-1] != "done" || types[0] != "job" {
		t.Errorf("events: %v", types)
	}
	again := filepath.Join(t.TempDir(), "game")
	h.must("generate", "once more", "--project", project, "-o", again)
	second := readGame(t, again)
	if second["game.js"] == first["game.js"] {
		t.Error("the second prompt did not change the game")
	}
	sessions, _ := filepath.Glob(filepath.Join(h.state, "homes/*/"+project+"/.claude/projects/*/*.jsonl"))
	if len(sessions) != 1 || !strings.Contains(sessions[0], session) {
		t.Errorf("three prompts of one project are the conversations %v, the second was %s", sessions, session)
	}
	// It refuses to overwrite files before it makes anything.
	if r := h.run("generate", "x", "-o", again); r.code != 2 || !strings.Contains(r.stderr, "--force") {
		t.Errorf("a directory that is not empty: %d %s", r.code, r.stderr)
	}
}

func readGame(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func TestGenerateTakesAnyPromptAsItIs(t *testing.T) {
	h := newHost(t).unbounded()
	script := writeScript(t, `{"conversations":[[{"tools":[{"name":"Write","input":{"file_path":"index.html","content":"<p>ok"}}]},{"text":"done"}]]}`)
	for name, prompt := range map[string]string{
		"a slash command": "/clear everything",
		"Japanese":        "氷の上のヘビゲームを作って",
		"emoji":           "🐍❄️ game 👨‍👩‍👧‍👦",
		"200 kB":          strings.Repeat("snake ", 200_000/6),
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			r := h.runIn(prompt, "generate", "-", "--model-script", script, "--json")
			if r.code != 0 || !strings.Contains(r.stdout, `{"type":"done","exit_code":0}`) {
				t.Fatalf("exit code %d\n%.2000s\n%s", r.code, r.stdout, r.stderr)
			}
			homes, _ := filepath.Glob(filepath.Join(h.state, "homes/*/*/.claude/projects/*/*.jsonl"))
			found := false
			for _, f := range homes {
				raw, _ := os.ReadFile(f)
				found = found || strings.Contains(string(raw), prompt[:min(len(prompt), 60)])
			}
			if !found {
				t.Error("the prompt did not reach the model's conversation as it was")
			}
		})
	}
}

func TestTheLongestPromptIsTakenByTheAgent(t *testing.T) {
	h := newHost(t)
	longest := strings.Repeat("word ", dreamcore.MaxPromptBytes/5)
	if r := h.runIn(longest, "generate", "-", "--model-script", "demo", "--json"); r.code != 0 || !strings.Contains(r.stdout, `{"type":"done"`) {
		t.Errorf("exit code %d\n%.2000s\n%s", r.code, r.stdout, r.stderr)
	}
	if r := h.runIn(longest+"x", "generate", "-", "--model-script", "demo"); r.code != 2 || !strings.Contains(r.stderr, "prompt is too long: at most 400000 bytes") {
		t.Errorf("one byte more: exit code %d\n%s", r.code, r.stderr)
	}
}

func writeScript(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script.json")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestGenerateIsInterruptedCleanly(t *testing.T) {
	h := newHost(t)
	script := writeScript(t, `{"conversations":[[{"tools":[{"name":"Bash","input":{"command":"touch began; setsid sleep 300 & sleep 300","description":"wait"}}]},{"text":"done"}]]}`)
	cmd := h.command(context.Background(), "generate", "wait for ever", "--project", project, "--model-script", script, "--json")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began := filepath.Join(h.state, "volumes/dreamcore-data/users/*/projects", project, "began")
	waitFor(t, "the agent's command", func() bool {
		found, _ := filepath.Glob(began)
		return len(found) > 0
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, `"code":"CLI_TERMINATED"`) {
		t.Errorf("the last event is %s", last)
	}
	// The work until then is a version.
	if !strings.Contains(out.String(), "Git commit created") {
		t.Error("the interrupted work was not saved")
	}
}

func TestAKilledGenerateLeavesNothing(t *testing.T) {
	h := newHost(t)
	script := writeScript(t, `{"conversations":[[{"tools":[{"name":"Bash","input":{"command":"touch began; sleep 300","description":"wait"}}]},{"text":"done"}]]}`)
	cmd := h.command(context.Background(), "generate", "wait for ever", "--project", project, "--model-script", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began := filepath.Join(h.state, "volumes/dreamcore-data/users/*/projects", project, "began")
	waitFor(t, "the agent's command", func() bool {
		found, _ := filepath.Glob(began)
		return len(found) > 0
	})
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	// Processes end by themselves; the next command removes their files, and the
	// project is usable at once.
	h.must("generate", "a game", "--project", project)
	if entries, err := os.ReadDir(filepath.Join(h.state, "run")); err != nil || len(entries) > 0 {
		t.Errorf("left in run/: %v, %v", entries, err)
	}
}

func TestSkillsOfTheOperatorReachTheAgent(t *testing.T) {
	h := newHost(t).unbounded()
	skill := filepath.Join(h.state, "volumes/dreamcore-global/.claude/skills/threejs-setup")
	if err := os.MkdirAll(skill, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "---\nname: threejs-setup\ndescription: How to set up three.js\n---\nUse the secret word marzipan.\n"
	if err := os.WriteFile(filepath.Join(skill, "SKILL.md"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	script := writeScript(t, `{"conversations":[[{"tools":[{"name":"Skill","input":{"skill":".claude:threejs-setup"}}]},{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<p>ok"}}]},{"text":"done"}]]}`)
	out := h.must("generate", "a 3D game", "--project", project, "--model-script", script, "--json")
	if !strings.Contains(out, `{"type":"status","message":"Skills loaded: threejs-setup"}`) {
		t.Error("the stream does not tell of the skill")
	}
	init := ""
	for line := range strings.Lines(out) {
		if strings.Contains(line, `"subtype":"init"`) {
			init = line
		}
	}
	if !strings.Contains(init, `threejs-setup`) || !strings.Contains(init, `"Skill"`) {
		t.Errorf("the agent does not list the skill: %s", init)
	}
	sessions, _ := filepath.Glob(filepath.Join(h.state, "homes/*/"+project+"/.claude/projects/*/*.jsonl"))
	if len(sessions) != 1 {
		t.Fatalf("conversations: %v", sessions)
	}
	if raw, err := os.ReadFile(sessions[0]); err != nil || !strings.Contains(string(raw), "marzipan") {
		t.Errorf("the agent could not read the skill: %v", err)
	}
}
