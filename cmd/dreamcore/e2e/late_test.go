package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// lateScript makes a game, and writes down what the sandbox shows of users and of what
// ran before in it. The second job of a project continues it.
const lateScript = `{"conversations":[
	[{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<p>one"}},
	  {"name":"Bash","input":{"command":"pwd >seen.txt; (cd /data/users && find . -maxdepth 3 | sort) >>seen.txt; ls -A /home /home/agent >>seen.txt; ls -A /tmp | grep -v -e claude -e cc-socks >>seen.txt; ls -A /dev/shm >>seen.txt; mkdir /data/users/x /home/x 2>/dev/null; cat /data/users/*/projects/*/secret.txt >>seen.txt 2>/dev/null; echo $PWD >secret.txt","description":"look around"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"cat secret.txt >again.txt","description":"look again"}}]},{"text":"done"}]
]}`

// standby waits for a standby sandbox for users with another id and returns its id.
func (h *host) standby(not string) (id string) {
	h.t.Helper()
	waitFor(h.t, "a standby sandbox", func() bool {
		id = h.sandboxOf("standby")
		return id != "" && id != not
	})
	return id
}

// sandboxOf returns the id of the sandbox with a name, or "".
func (h *host) sandboxOf(name string) string {
	h.t.Helper()
	var list struct {
		Sandboxes []struct{ Name, Sandbox string }
	}
	if err := json.Unmarshal([]byte(h.must("ps", "--json")), &list); err != nil {
		h.t.Fatal(err)
	}
	for _, sb := range list.Sandboxes {
		if sb.Name == name {
			return sb.Sandbox
		}
	}
	return ""
}

// underUnit returns a program that runs dreamcore with the capabilities of the unit.
func underUnit(t *testing.T, h *host) string {
	t.Helper()
	setpriv, err := exec.LookPath("setpriv")
	sandboxtest.Need(t, err == nil, "setpriv")
	file := filepath.Join(t.TempDir(), "dreamcore")
	text := fmt.Sprintf("#!/bin/sh\nexec %s --bounding-set %s --inh-caps -all --no-new-privs -- %s \"$@\"\n", setpriv, unitCapabilities(t, h, "gvisor"), h.exe)
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestNewUsersGetStandbySandboxes checks that a standby sandbox becomes that of one
// user, who sees the same as in any other, and of no second one. The service has the
// rights that its unit leaves.
func TestNewUsersGetStandbySandboxes(t *testing.T) {
	h := newHost(t)
	h.exe = underUnit(t, h)
	h.env = append(h.env, "DREAMCORE_STANDBY_SANDBOXES=1")
	s := h.serve("--model-script", writeScript(t, lateScript))
	play := func(user string, warm bool) {
		t.Helper()
		events := s.events("/generate_game", generateBody(user, project, "a snake game"))
		last, debug := events[len(events)-1], events[len(events)-2]
		if last["type"] != "done" || debug["sandbox_reused"] != false || debug["agent_warm"] != warm {
			t.Fatalf("%v %v\n%s", last, debug, s.log)
		}
	}
	before := ""
	for _, user := range []string{alice, bob} {
		ready := h.standby(before)
		if before != "" && h.sandboxOf("user-"+alice) != before {
			t.Errorf("the sandbox of the first user is not %s any more", before)
		}
		play(user, true)
		if got := h.sandboxOf("user-" + user); got != ready {
			t.Errorf("the user has sandbox %s, and %s was ready", got, ready)
		}
		dir := "/data/users/" + user + "/projects/" + project
		want := strings.ReplaceAll(dir+"\n.\n./U\n./U/projects\n./U/projects/P\n/home:\nagent\nproject\n\n/home/agent:\nP\n", "U", user)
		if got, want := s.file(user, project, "seen.txt"), strings.ReplaceAll(want, "P\n", project+"\n"); got != want {
			t.Errorf("the user sees %q, not %q", got, want)
		}
		before = ready
	}
	// Users who come back without a sandbox get one, too, with their files.
	ready := h.standby(before)
	h.must("sandbox", "stop", "user-"+alice)
	play(alice, false) // the agent that waited cannot continue a conversation
	if got := h.sandboxOf("user-" + alice); got != ready {
		t.Errorf("the user has sandbox %s, and %s was ready", got, ready)
	}
	if got, want := s.file(alice, project, "again.txt"), s.file(alice, project, "secret.txt"); got != want {
		t.Errorf("the user's file is %q, not %q", got, want)
	}
	h.standby(ready)
	if r := h.run("sandbox", "stop", "standby"); r.code != 1 || !strings.Contains(r.stderr, "standby_sandboxes") {
		t.Errorf("stop: %+v", r)
	}
	// A crash leaves the user's files, and nothing else.
	s.kill()
	s = h.serve("--model-script", writeScript(t, lateScript))
	if got := s.file(alice, project, "index.html"); got != "<p>one" {
		t.Errorf("after a crash: %q", got)
	}
	h.standby("")
	if code, o := s.object("/prewarm_sandbox", fmt.Sprintf(`{"user_id":%q}`, bob)); code != 200 || o["status"] != "warmed" {
		t.Errorf("%d %v", code, o)
	}
}
