package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// shell returns a turn of a model script that runs commands, each as a tool call
// with a time limit of its own.
func shell(commands ...string) map[string]any {
	var tools []map[string]any
	for _, c := range commands {
		tools = append(tools, map[string]any{"name": "Bash", "input": map[string]any{"command": c, "timeout": 20000, "description": "x"}})
	}
	return map[string]any{"tools": tools}
}

// TestAgentEnvironmentSurvivesItsShell covers what only the real CLI shows: programs
// of its shell have no network, leave servers running, and break the CLI's files.
func TestAgentEnvironmentSurvivesItsShell(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	done := map[string]any{"text": "Done."}
	breaks := []string{
		": > ~/.claude.json",
		"rm -f ~/.claude.json; mkfifo ~/.claude.json", // the host does not see it
		"chmod 000 ~/.claude.json ~/.claude",
		"rm -rf ~/.claude; echo x > ~/.claude",
	}
	conversations := [][]map[string]any{{
		shell(
			"echo '<p>game' > index.html; grep MemTotal /proc/meminfo > mem; echo by-name > /dev/stdout",
			"s=$(date +%s); npm install three; git clone https://example.com/x.git; curl -s https://example.com; echo $(($(date +%s) - s)) > took",
			"nohup python3 -m http.server 8123 >/dev/null 2>&1 & python3 -m http.server 8124 & echo started",
		), done,
	}}
	for i, b := range breaks {
		conversations = append(conversations, []map[string]any{shell(fmt.Sprintf("%s; echo %d > index.html", b, i)), done})
	}
	script, err := json.Marshal(map[string]any{"conversations": conversations})
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	h.env = append(h.env, "DREAMCORE_TIMEOUT=90s")
	s := h.serve("--model-script", writeScript(t, string(script)))
	all := fmt.Sprint(s.events("/generate_game", generateBody(alice, project, "a game")))
	if !strings.Contains(all, "type:done") || !strings.Contains(all, "content:by-name") {
		t.Errorf("%s\n%s", all, s.log)
	}
	read := func(name string) string {
		t.Helper()
		raw, err := os.ReadFile(projectFile(h, alice, project, name))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(raw))
	}
	if mem := strings.Fields(read("mem")); len(mem) != 3 || mem[1] != strconv.Itoa(2048<<10) {
		t.Errorf("the memory inside is %q, the limit is 2048 MiB", mem)
	}
	if took, err := strconv.Atoi(read("took")); err != nil || took > 30 {
		t.Errorf("without a network, npm, git and curl took %d s, %v", took, err)
	}
	for _, b := range breaks {
		events := s.events("/generate_game", generateBody(alice, project, "more"))
		if last := events[len(events)-1]; last["type"] != "done" {
			t.Fatalf("before %q: %v\n%s", b, events, s.log)
		}
	}
	// The last one removed the conversation, and the game continues.
	events := s.events("/generate_game", generateBody(alice, project, "still more"))
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Errorf("%v\n%s", events, s.log)
	}
}
