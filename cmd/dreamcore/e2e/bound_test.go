package e2e

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
)

// fillScript writes until the disk is full, then continues in the remaining space.
const fillScript = `{"conversations":[
	[{"tools":[{"name":"Bash","input":{"command":"(head -c 100000000 /dev/zero >big) 2>&1; true","description":"fill"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"rm big; echo fine >small.txt","description":"go on"}}]},{"text":"done"}]
]}`

func TestAUserCannotFillTheDisk(t *testing.T) {
	h := newHost(t)
	h.env = append(h.env, "DREAMCORE_DISK_MIB=32")
	s := h.serve("--model-script", writeScript(t, fillScript))
	events := s.events("/generate_game", generateBody(alice, project, "fill"))
	raw, _ := json.Marshal(events)
	if last := events[len(events)-1]; last["type"] != "done" && last["type"] != "error" || !strings.Contains(string(raw), "No space left on device") {
		t.Errorf("%s\n%s", raw, s.log)
	}
	out := h.must("sandbox", "exec", "user-"+alice, "--", "stat", "-c", "%s", project+"/big")
	if size, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || size < 8<<20 || size > 32<<20 {
		t.Errorf("the file has %q bytes", out)
	}
	// Another user is not affected, and removing files helps.
	if events := s.events("/generate_game", generateBody(bob, project, "fill")); len(events) < 3 {
		t.Errorf("%v", events)
	}
	events = s.events("/generate_game", generateBody(alice, project, "go on"))
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Errorf("%v\n%s", events, s.log)
	}
	if out := h.must("sandbox", "exec", "user-"+alice, "--", "cat", project+"/small.txt"); out != "fine\n" {
		t.Errorf("small.txt: %q", out)
	}
	s.stop()
	if raw, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(raw), h.state) {
		t.Errorf("still mounted: %v", err)
	}
}

func TestEverythingWorksUnderRunc(t *testing.T) {
	h := newHost(t)
	out := t.TempDir() + "/game"
	if r := h.run("generate", "a snake game", "--runtime", "runc", "--model-script", "demo", "-o", out); r.code != 0 || len(readGame(t, out)) < 3 {
		t.Fatalf("%+v", r)
	}
	// It is not gVisor, and no check claims that.
	r := h.run("gate", "--all", "--json", "--runtime", "runc", "--model-script", "demo")
	var report struct {
		Gates []struct{ Name, Status string }
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 1 {
		t.Fatalf("%v %+v", err, r)
	}
	for _, g := range report.Gates {
		if want := map[bool]string{true: "fail", false: "pass"}[g.Name == "isolation"]; g.Status != want {
			t.Errorf("gate %s: %s, want %s\n%s", g.Name, g.Status, want, r.stdout)
		}
	}
	h.env = append(h.env, "ALLOW_NON_GVISOR=1")
	if r := h.run("gate", "isolation", "--json", "--runtime", "runc", "--model-script", "demo"); r.code != 0 || !strings.Contains(r.stdout, "relaxed") {
		t.Errorf("relaxed: %+v", r)
	}
}
