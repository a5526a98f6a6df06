package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// editScript writes a game and continues with a file that a person changed.
const editScript = `{"conversations":[
	[{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"by the agent\n"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"cat index.html new/file.js >seen.txt; test ! -e gone.js; echo agent >>index.html; echo agent >new/more.js","description":"go on"}}]},{"text":"done"}]
]}`

// TestAWarmSandboxSeesWhatAPersonChanged applies files between two jobs of a
// user in the same sandbox.
func TestAWarmSandboxSeesWhatAPersonChanged(t *testing.T) {
	for _, runtime := range []string{"gvisor", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			h := newHost(t)
			s := h.serve("--model-script", writeScript(t, editScript), "--runtime", runtime)
			apply := func(members string) []map[string]any {
				return s.events("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,%s}`, alice, project, members))
			}
			generate := func(reused bool) {
				events := s.events("/generate_game", generateBody(alice, project, "go on"))
				last, debug := events[len(events)-1], events[len(events)-2]
				if last["type"] != "done" || debug["sandbox_reused"] != reused {
					t.Fatalf("%v %v\n%s", last, debug, s.log)
				}
			}
			generate(false)
			events := apply(`"files":[{"path":"index.html","content":"by a person\n"},{"path":"new/file.js","content":"new\n"}],"commit_message":"By hand"`)
			if events[len(events)-1]["type"] != "done" {
				t.Fatalf("%v", events)
			}
			generate(true)
			for name, want := range map[string]string{"seen.txt": "by a person\nnew\n", "index.html": "by a person\nagent\n", "new/more.js": "agent\n"} {
				if got := s.file(alice, project, name); got != want {
					t.Errorf("%s: %q", name, got)
				}
			}
			_, log := s.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_log"}`, alice, project))
			commits, _ := log["commits"].([]any)
			if len(commits) != 3 || commits[1].(map[string]any)["message"] != "By hand" {
				t.Fatalf("%v", log)
			}
			hash := commits[2].(map[string]any)["hash"]
			if code, o := s.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_restore","commit":%q}`, alice, project, hash)); code != http.StatusOK || o["success"] != true {
				t.Fatalf("%d %v", code, o)
			}
			if got := s.file(alice, project, "index.html"); got != "by the agent\n" {
				t.Errorf("restored: %q", got)
			}
			if got := s.file(alice, project, "new/more.js"); !strings.Contains(got, "agent") {
				t.Errorf("what is newer stays: %q", got)
			}
		})
	}
}
