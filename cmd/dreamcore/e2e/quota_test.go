package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// quotaScript makes a game, fills its project until the kernel refuses, then makes
// more files than allowed.
const quotaScript = `{"conversations":[
	[{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"whole\n"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"mkdir .Git; echo x >.Git/config; (head -c 60000000 /dev/zero >big) 2>&1; true","description":"fill"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"rm -f big; for i in $(seq 1 3000); do : >f$i; done; sleep 60","description":"many"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"rm -f f*; echo fine >index.html","description":"go on"}}]},{"text":"done"}]
]}`

// TestAProjectCannotOutgrowItsBounds lets the real agent reach both limits of a
// project on a user's disk with more space.
func TestAProjectCannotOutgrowItsBounds(t *testing.T) {
	h := newHost(t)
	h.env = append(h.env, "DREAMCORE_DISK_MIB=96", "DREAMCORE_PROJECT_MIB=24", "DREAMCORE_PROJECT_FILES=500")
	s := h.serve("--model-script", writeScript(t, quotaScript))
	run := func() (last map[string]any, all string) {
		events := s.events("/generate_game", generateBody(alice, project, "go on"))
		raw, _ := json.Marshal(events)
		return events[len(events)-1], string(raw)
	}
	if last, all := run(); last["type"] != "done" {
		t.Fatal(all)
	}
	first := gitHistory(t, h, alice, "rev-parse", "main")

	last, all := run()
	for _, want := range []string{"No space left on device", `"warning"`, "has used up its space", "Left out of the version: Git reserves the name: 1, such as"} {
		if !strings.Contains(all, want) {
			t.Errorf("the stream does not say %q\n%s", want, all)
		}
	}
	if last["type"] == "error" && !strings.Contains(fmt.Sprint(last["userMessage"]), "used up its space") {
		t.Errorf("no message for the player: %v", last)
	}
	if out := h.must("sandbox", "exec", "user-"+alice, "--", "sh", "-c", "stat -c %s "+project+"/big; cat "+project+"/index.html"); !strings.HasSuffix(out, "\nwhole\n") || len(strings.Fields(out)[0]) != 8 {
		t.Errorf("in the project: %q, want about 24 MiB", out)
	}
	if got := gitHistory(t, h, alice, "show", first+":index.html"); got != "whole" {
		t.Errorf("the version before: %q", got)
	}

	last, all = run()
	if last["type"] != "error" || last["code"] != "QUOTA_EXCEEDED" || !strings.Contains(fmt.Sprint(last["userMessage"]), "used up its space") || !strings.Contains(all, "reached its file limit") {
		t.Errorf("%s\n%s", all, s.log)
	}
	// Nothing is lost, and removing files helps.
	if last, all = run(); last["type"] != "done" {
		t.Errorf("%s\n%s", all, s.log)
	}
	if got := s.file(alice, project, "index.html"); got != "fine\n" {
		t.Errorf("index.html: %q", got)
	}
	gitHistory(t, h, alice, "fsck", "--full", "--strict")
}

// gitHistory runs stock git on the history of a user's project.
func gitHistory(t *testing.T, h *host, user string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"--git-dir", filepath.Join(h.state, "history", user, project+".git")}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C", "HOME=/"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
