package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// badAgent replaces the agent by a misbehaving program.
func badAgent(t *testing.T, h *host) {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "badcli")
	cmd := exec.Command("go", "build", "-o", exe, "./testdata/badcli")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fi, err := os.Stat(exe)
	if err != nil {
		t.Fatal(err)
	}
	err = agent.Record(filepath.Join(h.state, "agent"), agent.Binary{
		Path: exe, Version: "bad", Size: fi.Size(), Modified: fi.ModTime(), Proven: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnAgentThatMisbehavesEndsWithTheRightEvent(t *testing.T) {
	h := newHost(t)
	badAgent(t, h)
	config := "timeout: 10s\nmemory_mib: 256\n"
	if err := os.WriteFile(filepath.Join(h.state, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := h.serve("--model-script", "demo")
	for _, tt := range []struct {
		prompt, code string // code "": done
		exit         any
	}{
		{"empty", "NO_GAME", nil},
		{"garbage", "", nil},
		{"longline", "", nil},
		{"hugeline", "", nil},
		{"many", "", nil},
		{"leave", "", nil},
		{"linger", "", nil},
		{"crash-once", "", nil},
		{"nothing", "CLI_GENERAL_ERROR", 1.0},
		{"liar", "CLI_GENERAL_ERROR", 1.0},
		{"forge", "CLI_GENERAL_ERROR", 1.0},
		{"exit 1", "CLI_GENERAL_ERROR", 1.0},
		{"exit 7", "CLI_UNKNOWN_ERROR", 7.0},
		{"hang", "CLI_TIMEOUT", 124.0},
		{"memory", "CLI_KILLED", 137.0},
		{"signal 1", "CLI_UNKNOWN_ERROR", 129.0},
		{"signal 2", "CLI_UNKNOWN_ERROR", 130.0},
		{"signal 6", "CLI_UNKNOWN_ERROR", 134.0},
		{"signal 9", "CLI_KILLED", 137.0},
		{"signal 11", "CLI_UNKNOWN_ERROR", 139.0},
		{"signal 13", "CLI_UNKNOWN_ERROR", 141.0},
		{"signal 15", "CLI_TERMINATED", 143.0},
	} {
		t.Run(tt.prompt, func(t *testing.T) {
			h.t = t
			events := s.events("/generate_game", generateBody(alice, project, tt.prompt))
			last, debug := events[len(events)-1], events[len(events)-2]
			terminal := 0
			for _, e := range events {
				if e["type"] == "done" || e["type"] == "error" {
					terminal++
				}
			}
			switch {
			case terminal != 1:
				t.Errorf("%d terminal events", terminal)
			case debug["type"] != "debug":
				t.Errorf("before the last event: %.300v", debug)
			case tt.code == "" && last["type"] != "done":
				t.Errorf("%v\n%s", last, s.log)
			case tt.code != "" && (last["type"] != "error" || last["code"] != tt.code):
				t.Errorf("%v, want %s\n%s", last, tt.code, s.log)
			case tt.exit != nil && last["exitCode"] != tt.exit:
				t.Errorf("exit code %v, want %v", last["exitCode"], tt.exit)
			case tt.code == "CLI_TIMEOUT" && debug["timeout_reached"] != true:
				t.Errorf("the time limit is not in %v", debug)
			}
			checkForwarded(t, tt.prompt, events)
		})
	}
}

// checkForwarded checks how special lines were forwarded.
func checkForwarded(t *testing.T, prompt string, events []map[string]any) {
	t.Helper()
	count := map[string]int{}
	for _, e := range events {
		count[e["type"].(string)]++
	}
	switch prompt {
	case "garbage":
		if count["log"] < 3 {
			t.Errorf("garbage became %v", count)
		}
	case "longline":
		if count["user"] != 1 {
			t.Errorf("a line of 5 MB became %v", count)
		}
	case "hugeline":
		if count["log"] < 1 {
			t.Errorf("a line of 40 MB became %v", count)
		}
	case "linger":
		if count["warning"] > 0 {
			t.Errorf("a game was made: %v", count)
		}
	case "crash-once":
		if !strings.Contains(fmt.Sprint(events), "The agent could not start; it is started once more") {
			t.Errorf("no event tells the client about the crash: %v", events)
		}
	case "many":
		if count["user"] != 1000 || count["warning"] != 1 {
			t.Errorf("1500 lines became %v", count)
		}
	}
}

const canary = "sk-ant-canary-0123456789abcdef0123456789abcdef"

// upstream starts a model API on this machine whose key is the canary.
func upstream(t *testing.T, script string) *httptest.Server {
	t.Helper()
	parsed, err := replay.Parse([]byte(script))
	if err != nil {
		t.Fatal(err)
	}
	model := replay.New(parsed)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != canary {
			t.Errorf("the upstream got the key %q", r.Header.Get("X-Api-Key"))
		}
		model.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// withUpstream configures the canary as the key and the address of the upstream.
func withUpstream(h *host, url string) {
	h.t.Helper()
	if r := h.runIn(canary, "secret", "create", "--force", "anthropic-api-key", "ANTHROPIC_API_KEY=-"); r.code != 0 {
		h.t.Fatal(r.stderr)
	}
	h.env = append(h.env, "ANTHROPIC_BASE_URL="+url, "DREAMCORE_MODEL_IDLE=2s")
}

func TestUpstreamFaultsEndWithTheRightCodeInTime(t *testing.T) {
	for _, tt := range []struct{ name, fail, code string }{
		{"401", `{"status":401,"type":"authentication_error","message":"invalid x-api-key"}`, "AUTH_ERROR"},
		{"429", `{"status":429,"type":"rate_limit_error","message":"slow down","headers":{"retry-after":"1"}}`, "RATE_LIMIT"},
		{"500", `{"status":500,"type":"api_error","message":"boom"}`, "NETWORK_ERROR"},
		{"529", `{"status":529,"type":"overloaded_error","message":"busy"}`, "RATE_LIMIT"},
		{"cut", `{"cut":true}`, "NETWORK_ERROR"},
		{"stall", `{"stall":true}`, "API_TIMEOUT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			up := upstream(t, `{"conversations":[[{"text":"hello","fail":`+tt.fail+`}]]}`)
			withUpstream(h, up.URL)
			began := time.Now()
			r := h.run("generate", "a game", "--json")
			lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
			last := lines[len(lines)-1]
			if r.code != 1 || !strings.Contains(last, `"type":"error"`) || !strings.Contains(last, `"code":"`+tt.code+`"`) {
				t.Errorf("exit code %d, last event %s\n%s", r.code, last, r.stderr)
			}
			if d := time.Since(began); d > 45*time.Second {
				t.Errorf("it took %v", d)
			}
			if strings.Contains(r.stdout+r.stderr, canary) {
				t.Error("the key is in the output")
			}
		})
	}
}

func TestUpstreamThatDoesNotAnswer(t *testing.T) {
	h := newHost(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	_ = ln.Close()
	withUpstream(h, url)
	if r := h.run("generate", "a game", "--json"); r.code != 1 || !strings.Contains(r.stdout, `"code":"NETWORK_ERROR"`) {
		t.Errorf("exit code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
}

func TestTheKeyIsNowhereInTheSandbox(t *testing.T) {
	h := newHost(t)
	needle := canary[10:26]
	// The script records everything it can see; the search runs outside, so that the
	// script itself is not a finding.
	const hunt = `{
for p in /proc/[0-9]*; do for f in environ cmdline maps mountinfo status; do tr '\0' '\n' <$p/$f; done; ls -l $p/fd; done
cat /proc/mounts /proc/net/unix /proc/version /proc/cmdline; env; set
find /etc /home /tmp /run /global /data /.dreamcore/bin /var /dev/shm -type f -size -300k -not -name hunt -exec cat {} +
for s in $(find / -path /proc -prune -o -path /usr -prune -o -type s -print); do
  echo "socket $s"
  for r in 'GET /' 'GET /v1/messages' 'GET /debug/vars' 'GET /metrics' 'POST /v1/messages/count_tokens' 'TRACE /'; do
    timeout 5 perl -MIO::Socket::UNIX -e "\$s=IO::Socket::UNIX->new('$s'); syswrite \$s, \"$r HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n\"; sysread \$s,\$b,65536; print \$b"
  done
done
} >/tmp/hunt 2>&1
cp /tmp/hunt hunt.txt; true`
	raw, err := json.Marshal(map[string]any{"conversations": [][]map[string]any{{
		{"tools": []map[string]any{{"name": "Bash", "input": map[string]any{"command": hunt, "description": "look around", "timeout": 120000}}}},
		{"text": "done"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	up := upstream(t, string(raw))
	withUpstream(h, up.URL)
	game := filepath.Join(t.TempDir(), "game")
	r := h.run("generate", "look around", "--project", project, "--json", "-o", game)
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	raw, err = os.ReadFile(filepath.Join(game, "hunt.txt"))
	if err != nil {
		t.Fatal(err)
	}
	looked := string(raw)
	if i := strings.Index(looked, needle); i >= 0 {
		t.Errorf("the key was found: %q", looked[max(0, i-100):i+100])
	}
	// A script that saw nothing proves nothing.
	for _, want := range []string{
		"ANTHROPIC_API_KEY=sk-dreamcore-", "socket /run/dreamcore/api.sock", "Linux version 4.19.0-gvisor",
		"agent:x:10000", `"sessionId"`, "authentication_error", "dreamcore-init",
	} {
		if !strings.Contains(looked, want) {
			t.Errorf("the hunt has not even seen %q", want)
		}
	}
	// Nor is it on disk, except in the sealed secret.
	out, err := exec.Command("grep", "-rl", canary, h.state).Output()
	if err == nil {
		t.Errorf("the key is in %s", out)
	}
	if strings.Contains(r.stdout+r.stderr, needle) {
		t.Error("the key is in the events")
	}
}

func TestOtherUsersAreInvisible(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", writeScript(t, `{"conversations":[[{"tools":[{"name":"Bash","input":{"command":"echo secret-of-$PWD > mine; find /data > seen 2>&1; ls -la /data/users/*/projects/* >> seen; touch /global/x; grep ' /global ' /proc/mounts >> seen; cat /global/shared >> seen; id >> seen; ls -ld /proc/1/root >> seen 2>&1; cat /etc/shadow >> seen 2>&1; ls /root /home >> seen 2>&1; true","description":"look"}}]},{"text":"done"}]]}`))
	if err := os.WriteFile(filepath.Join(h.state, "volumes/dreamcore-global/shared"), []byte("for all\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.events("/generate_game", generateBody(alice, project, "look"))
	s.events("/generate_game", generateBody(bob, otherProject, "look"))
	raw, err := os.ReadFile(projectFile(h, bob, otherProject, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	seen := string(raw)
	if strings.Contains(seen, alice) || strings.Contains(seen, "root:") {
		t.Errorf("bob saw too much:\n%s", seen)
	}
	for _, want := range []string{"/data/users/" + bob + "/projects/" + otherProject, " /global 9p ro", "for all", "uid=10000"} {
		if !strings.Contains(seen, want) {
			t.Errorf("%q is not in what bob saw:\n%s", want, seen)
		}
	}
}

func TestAFullDiskIsAnErrorAndNoHang(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	h := newHost(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.Remove(filepath.Join(h.state, "reserve")); err != nil { // it is larger than the disk
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", h.state, filepath.Join(disk, "state")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script := writeScript(t, `{"conversations":[[{"tools":[{"name":"Bash","input":{"command":"dd if=/dev/zero of=big bs=1M count=400; echo status $?","description":"fill"}}]},{"text":"done"}]]}`)
	state := filepath.Join(disk, "state")
	// Some space must stay free.
	r := h.run("generate", "fill the disk", "--state", state, "--model-script", script, "--json")
	if r.code != 1 || !strings.Contains(r.stdout, "DISK_FULL") || !strings.Contains(r.stderr, "nearly full") {
		t.Errorf("under the reserve: exit code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	// A user's limit exceeds the free space: no job begins.
	h.env = append(h.env, "DREAMCORE_MIN_FREE_DISK_MIB=0")
	r = h.run("generate", "fill the disk", "--state", state, "--model-script", script, "--json")
	if r.code != 1 || !strings.Contains(r.stdout, "DISK_FULL") || !strings.Contains(r.stderr, "no space left") {
		t.Errorf("over the bound: exit code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	h.unbounded()
	r = h.run("generate", "fill the disk", "--state", state, "--model-script", script, "--json")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, `"type":"done"`) && !strings.Contains(last, `"type":"error"`) {
		t.Errorf("the last event is %s\n%s", last, r.stderr)
	}
	if !strings.Contains(r.stdout, "No space left") {
		t.Errorf("the agent was not told:\n%s", r.stdout)
	}
	fillDisk(t, filepath.Join(disk, "rest")) // what the job has given back
	r = h.run("setup", "--yes", "--state", filepath.Join(state, "new"), "--claude", claude(t))
	if r.code != 1 || !strings.Contains(r.stderr, "no space left") || !strings.Contains(r.stderr, "→") {
		t.Errorf("setup on a full disk: exit code %d\n%s", r.code, r.stderr)
	}
}
