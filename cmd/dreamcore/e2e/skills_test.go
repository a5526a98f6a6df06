package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// skillsScript reads a skill in every way that prompts use and tries to change the
// skills. The last conversation is killed.
const skillsScript = `{"conversations":[
	[{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<p>one"}}]},
	 {"tools":[{"name":"Read","input":{"file_path":".claude/skills/p5js/SKILL.md"}}]},
	 {"tools":[{"name":"Read","input":{"file_path":"{{cwd}}/.claude/skills/p5js/SKILL.md"}}]},
	 {"tools":[{"name":"Skill","input":{"skill":".claude:p5js"}}]},
	 {"tools":[{"name":"Bash","input":{"command":"cd .claude/skills; for c in 'echo x >p5js/SKILL.md' 'touch p5js/new' 'mkdir mine' 'rm -rf p5js' 'mv p5js q5js' 'chmod 777 p5js'; do sh -c \"$c\" 2>/dev/null && echo CHANGED \"$c\"; done; cat p5js/SKILL.md; echo tried","description":"change"}}]},
	 {"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/.claude/skills/mine/SKILL.md","content":"mine"}}]},
	 {"text":"done"}],
	[{"tools":[{"name":"Read","input":{"file_path":".claude/skills/p5js/SKILL.md"}}]},
	 {"tools":[{"name":"Bash","input":{"command":"rm -rf .claude; ls -a; echo two >index.html","description":"remove"}}]},
	 {"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"test -r .claude/skills/p5js/SKILL.md && touch began; sleep 300","description":"wait"}}]},{"text":"done"}]
]}`

// TestSkillsAreInTheProjectAndNoPartOfIt runs the agent in a warm sandbox with the
// skills of the global volume in its project.
func TestSkillsAreInTheProjectAndNoPartOfIt(t *testing.T) {
	for _, runtime := range []string{"gvisor", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			h := newHost(t).unbounded().oneAttempt()
			dir := filepath.Join(h.state, "volumes/dreamcore-global/.claude/skills/p5js")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			skill := filepath.Join(dir, "SKILL.md")
			put := func(word string) {
				text := "---\nname: p5js\ndescription: How to set up p5.js\n---\nThe secret word is " + word + ".\n"
				if err := os.WriteFile(skill, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			put("marzipan")
			args := []string{"--model-script", writeScript(t, skillsScript), "--runtime", runtime}
			s := h.serve(args...)
			results := func() (all []string) {
				for _, e := range s.events("/generate_game", generateBody(alice, project, "a game")) {
					if e["type"] == "user" {
						raw, _ := json.Marshal(e["message"])
						all = append(all, string(raw))
					}
				}
				return all
			}
			first := results()
			if len(first) < 7 { // the Skill tool has two
				t.Fatalf("%q\n%s", first, s.log)
			}
			for i, how := range map[int]string{1: "a relative path", 2: "an absolute path", 4: "the Skill tool", 5: "a shell"} {
				if !strings.Contains(first[i], "marzipan") {
					t.Errorf("%s: %s", how, first[i])
				}
			}
			if tried := first[5]; strings.Contains(tried, "CHANGED") || !strings.Contains(tried, "tried") {
				t.Errorf("the agent changed a skill: %s", tried)
			}
			if last := first[len(first)-1]; !strings.Contains(last, `"is_error":true`) {
				t.Errorf("a new skill could be written: %s", last)
			}
			h.noSkillsIn(s, 1)

			put("nougat")
			second := results()
			if len(second) < 2 || !strings.Contains(second[0], "nougat") {
				t.Errorf("a skill that was changed: %q", second)
			}
			if raw, err := os.ReadFile(skill); err != nil || !strings.Contains(string(raw), "nougat") {
				t.Fatalf("the agent removed a skill: %v", err)
			}
			h.noSkillsIn(s, 2)

			resp := s.post("/generate_game", generateBody(alice, project, "a game"))
			defer resp.Body.Close()
			inside := filepath.Join(h.state, "volumes/dreamcore-data/users", alice, "projects", project)
			waitFor(t, "the agent's command", func() bool {
				_, err := os.Stat(filepath.Join(inside, "began"))
				return err == nil
			})
			s.kill()
			if _, err := os.Lstat(filepath.Join(inside, ".claude/skills")); err != nil {
				t.Errorf("the kill met no link: %v", err)
			}
			s = h.serve(args...)
			h.noSkillsIn(s, 2)
			body := fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"a.js","content":"1"}]}`, alice, project)
			if events := s.events("/apply_files", body); events[len(events)-1]["type"] != "done" {
				t.Errorf("%v", events)
			}
			h.noSkillsIn(s, 4) // what the killed job left, and the change
			if raw, err := os.ReadFile(skill); err != nil || !strings.Contains(string(raw), "nougat") {
				t.Errorf("the skill: %v", err)
			}
		})
	}
}

// noSkillsIn checks every view of alice's project.
func (h *host) noSkillsIn(s *service, versions int) {
	t := h.t
	t.Helper()
	if list := s.listed(alice, project); !strings.Contains(list, "index.html") || strings.Contains(list, "claude") {
		t.Errorf("list_files: %s", list)
	}
	if got := s.file(alice, project, ".claude/skills/p5js/SKILL.md"); !strings.HasPrefix(got, "404") {
		t.Errorf("get_file: %s", got)
	}
	_, log := s.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_log"}`, alice, project))
	commits, _ := log["commits"].([]any)
	if len(commits) != versions {
		t.Errorf("versions: %v", log)
	}
	for _, c := range commits {
		hash := c.(map[string]any)["hash"]
		if _, o := s.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_diff","commit":%q}`, alice, project, hash)); strings.Contains(fmt.Sprint(o), "claude") {
			t.Errorf("git_diff: %v", o)
		}
	}
	if out := gitHistory(t, h, alice, "fsck", "--strict", "--full", "--no-dangling", "--no-progress"); out != "" {
		t.Errorf("git fsck: %s", out)
	}
	if out := gitHistory(t, h, alice, "log", "--all", "--name-only", "--format="); strings.Contains(out, "claude") {
		t.Errorf("versions: %s", out)
	}
	file := filepath.Join(t.TempDir(), "export.tar")
	h.must("export", project, file)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(hdr.Name, ".claude") {
			t.Errorf("export: %s", hdr.Name)
		}
	}
}

// listed returns the answer of list_files.
func (s *service) listed(user, project string) string {
	s.h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.url+"/list_files?"+url.Values{"user_id": {user}, "project_id": {project}}.Encode(), nil)
	if err != nil {
		s.h.t.Fatal(err)
	}
	req.Header.Set("X-Modal-Secret", s.secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.h.t.Fatal(err)
	}
	return string(raw)
}
