package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const otherProject = "223e4567-e89b-42d3-a456-426614174000"

func TestServiceAnswersEveryEndpointInEveryForm(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	resp, err := http.Get(s.url + "/health")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("/health: %s", resp.Status)
	}
	for path, check := range map[string]func(map[string]any) bool{
		"/test_sandbox_io": func(o map[string]any) bool { return o["output"] == "hello" && o["match"] == true },
		"/test-gvisor": func(o map[string]any) bool {
			return o["is_gvisor"] == true && strings.Contains(o["proc_version"].(string), "gvisor")
		},
		"/test_volume": func(o map[string]any) bool { return o["read"] == o["written"] && o["match"] == true },
		"/test_auth":   func(o map[string]any) bool { return true },
	} {
		if code, o := s.object(path, ""); code != 200 || o["success"] != true || !check(o) {
			t.Errorf("%s: %d %v", path, code, o)
		}
	}
	req, _ := http.NewRequest(http.MethodPost, s.url+"/", nil)
	req.Host = "acme--dreamcore-test-sandbox-io.modal.run"
	req.Header.Set("X-Modal-Secret", s.secret)
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("host label: %s", resp.Status)
	}
	events := s.events("/test_stream", "")
	if len(events) != 6 || events[0]["count"] != 1.0 || events[4]["count"] != 5.0 || events[5]["type"] != "done" {
		t.Errorf("test_stream: %v", events)
	}
}

func TestGenerateStreamFollowsTheContract(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	resp := s.post("/generate_game", generateBody(alice, project, "a snake game"))
	defer resp.Body.Close()
	for k, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no",
	} {
		if got := resp.Header.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	var types []string
	var last map[string]any
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 16<<20)
	id := 0
	for sc.Scan() {
		line := sc.Text()
		switch {
		case line == "" || strings.HasPrefix(line, ":"):
		case strings.HasPrefix(line, "id: "):
			if id++; line != fmt.Sprintf("id: %d", id) {
				t.Errorf("event %d has %q", id, line)
			}
		case strings.HasPrefix(line, "data: "):
			last = parseEvents(t, line)[0]
			types = append(types, last["type"].(string))
		default:
			t.Errorf("line %.100q", line)
		}
	}
	order := strings.Join(types, " ")
	if !strings.HasPrefix(order, "status ") || !strings.HasSuffix(order, "result status log debug done") || strings.Count(order, "done") != 1 {
		t.Errorf("events: %s", order)
	}
	if last["exit_code"] != 0.0 {
		t.Errorf("last event: %v", last)
	}
	for _, f := range []string{"index.html", "game.js", "style.css"} {
		if _, err := os.Stat(filepath.Join(h.state, "volumes/dreamcore-data/users", alice, "projects", project, f)); err != nil {
			t.Error(err)
		}
	}
}

func TestTestErrorsArePlayed(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	for name, want := range map[string]string{
		"timeout": "CLI_TIMEOUT", "general": "CLI_GENERAL_ERROR", "sandbox": "SANDBOX_ERROR",
		"network": "NETWORK_ERROR", "rate_limit": "RATE_LIMIT",
	} {
		events := s.events("/generate_game", generateBody(alice, project, "x", "_test_error", name), "Accept-Language", "ja")
		last := events[len(events)-1]
		if len(events) != 2 || events[0]["type"] != "status" || last["type"] != "error" || last["code"] != want {
			t.Errorf("%s: %v", name, events)
		}
		if m := last["userMessage"].(string); !strings.ContainsAny(m, "。") {
			t.Errorf("%s: the sentence for a Japanese player is %q", name, m)
		}
	}
}

const waitScript = `{"conversations":[[{"tools":[{"name":"Bash","input":{"command":"touch began; while [ ! -e go ]; do sleep 0.05; done; echo end > ended","description":"wait"}}]},{"text":"done"}]]}`

func projectFile(h *host, user, project, name string) string {
	return filepath.Join(h.state, "volumes/dreamcore-data/users", user, "projects", project, name)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func TestAStoppingServiceLetsGenerationsEnd(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", writeScript(t, waitScript))
	resp := s.post("/generate_game", generateBody(alice, project, "wait"))
	defer resp.Body.Close()
	waitFor(t, "the agent's command", func() bool { return exists(projectFile(h, alice, project, "began")) })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.stop()
	}()
	waitFor(t, "the drain", func() bool { code, _ := s.status("GET", "/readyz"); return code == http.StatusServiceUnavailable })
	// The service still knows best: the stored jobs cannot be read while it has their index.
	if out := h.must("jobs", "--json"); !strings.Contains(out, `"state":"running"`) {
		t.Errorf("jobs during the drain: %s", out)
	}
	if out := h.must("ps", "--json"); !strings.Contains(out, `"state":"leased"`) {
		t.Errorf("ps during the drain: %s", out)
	}
	if err := os.WriteFile(projectFile(h, alice, project, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var stream strings.Builder
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		stream.WriteString(sc.Text() + "\n")
	}
	<-stopped
	if events := parseEvents(t, stream.String()); events[len(events)-1]["type"] != "done" {
		t.Errorf("the stream ended with %v", events[len(events)-1])
	}
}

func TestAfterACrashTheNextStartCleansUp(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", writeScript(t, waitScript))
	resp := s.post("/generate_game", generateBody(alice, project, "wait"))
	defer resp.Body.Close()
	job := resp.Header.Get("X-Job-Id")
	waitFor(t, "the agent's command", func() bool { return exists(projectFile(h, alice, project, "began")) })
	s.kill()
	s2 := h.serve("--model-script", "demo")
	if last := s2.watch(http.MethodGet, "/jobs/"+job+"/events", "").until(never); last["type"] != "done" {
		t.Errorf("the crashed job ends with %v\n%s", last, s2.log)
	}
	logs, _ := filepath.Glob(filepath.Join(h.state, "jobs", job+"*"))
	if len(logs) != 1 {
		t.Fatalf("logs of job %q: %v", job, logs)
	}
	raw, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(raw), `{"type":"done"`) != 1 || strings.Contains(string(raw), `{"type":"error"`) {
		t.Errorf("the log of the crashed job: %s", raw)
	}
	if entries, _ := filepath.Glob(filepath.Join(h.state, "run", "*-*")); len(entries) != 1 {
		t.Errorf("run/ holds %v", entries) // the living one's directory, and its socket for commands
	}
	if events := s2.events("/generate_game", generateBody(alice, project, "again")); events[len(events)-1]["type"] != "done" {
		t.Errorf("the project cannot be used after the crash: %v", events[len(events)-1])
	}
}

func TestManyUsersAtOnce(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			user := fmt.Sprintf("00000000-0000-4000-9000-%012d", i)
			events := s.events("/generate_game", generateBody(user, project, "a game"))
			if last := events[len(events)-1]; last["type"] != "done" {
				t.Errorf("user %d: %v", i, last)
			}
		})
	}
	wg.Wait()
}

func TestDevReloadsWithoutDroppingAStream(t *testing.T) {
	h := newHost(t)
	script := writeScript(t, waitScript)
	s := h.serve("--dev", "--model-script", script)
	resp := s.post("/generate_game", generateBody(alice, project, "wait"))
	defer resp.Body.Close()
	waitFor(t, "the agent's command", func() bool { return exists(projectFile(h, alice, project, "began")) })
	next := `{"conversations":[[{"tools":[{"name":"Write","input":{"file_path":"index.html","content":"reloaded"}}]},{"text":"done"}]]}`
	if err := os.WriteFile(script, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the script to be taken up", func() bool { return strings.Contains(s.log.String(), "reloaded") })
	if err := os.WriteFile(script, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a bad script to be refused", func() bool { return strings.Contains(s.log.String(), "the old settings stay") })
	if events := s.events("/generate_game", generateBody(bob, project, "x")); events[len(events)-1]["type"] != "done" {
		t.Errorf("after the reload: %v", events[len(events)-1])
	}
	if b, err := os.ReadFile(projectFile(h, bob, project, "index.html")); err != nil || string(b) != "reloaded" {
		t.Errorf("the new script was not used: %q %v", b, err)
	}
	// A setting that needs a restart is named and changes nothing.
	if err := os.WriteFile(script, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.state, "config.yaml"), []byte("disk_mib: 64\naudit_mib: 7\ntimeout: 100s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the settings to be named", func() bool { return strings.Contains(s.log.String(), "need a restart") })
	if log := s.log.String(); !strings.Contains(log, "[disk_mib audit_mib]") && !strings.Contains(log, `["disk_mib","audit_mib"]`) {
		t.Errorf("the log does not name the settings:\n%s", log)
	}
	if err := os.WriteFile(projectFile(h, alice, project, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 16<<20)
	var stream strings.Builder
	for sc.Scan() {
		stream.WriteString(sc.Text() + "\n")
	}
	if events := parseEvents(t, stream.String()); events[len(events)-1]["type"] != "done" {
		t.Errorf("the stream that ran ended with %v", events[len(events)-1])
	}
}

func TestGateChecksAnyService(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	junit := filepath.Join(t.TempDir(), "junit.xml")
	h.env = append(h.env, "MODAL_ENDPOINT="+s.url, "MODAL_INTERNAL_SECRET="+s.secret)
	out := h.must("gate", "--all", "--json", "--junit", junit)
	if !strings.Contains(out, `"passed":true`) || strings.Count(out, `"status":"pass"`) != 6 {
		t.Errorf("gate --all: %s", out)
	}
	if raw, err := os.ReadFile(junit); err != nil || !strings.Contains(string(raw), `failures="0"`) {
		t.Errorf("JUnit: %s %v", raw, err)
	}
	if out := h.must("gate", "5", "isolation"); !strings.Contains(out, "auth") || !strings.Contains(out, "isolation") || strings.Contains(out, "volume") {
		t.Errorf("two gates: %s", out)
	}
	if r := h.run("gate", "auth", "--endpoint", s.url+"/generate_game", "--secret-file", writeScript(t, "wrong")); r.code != 4 {
		t.Errorf("a wrong secret: exit code %d\n%s", r.code, r.stdout)
	}
}

func TestGateStartsAServerOfItsOwn(t *testing.T) {
	h := newHost(t)
	before := time.Now()
	if out := h.must("gate", "--all", "--json"); !strings.Contains(out, `"passed":true`) {
		t.Errorf("gate --all: %s", out)
	}
	if d := time.Since(before); d < 4*time.Second {
		t.Errorf("the streaming gate cannot have run in %v", d)
	}
}

func TestGenerateAsAClient(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	out := h.must("generate", "a game", "--endpoint", s.url, "--user", alice, "--project", project, "--json")
	if !strings.Contains(out, `{"type":"done","exit_code":0}`) {
		t.Errorf("events: %s", out)
	}
	if !exists(projectFile(h, alice, project, "index.html")) {
		t.Error("the service has not made the game")
	}
	dir := filepath.Join(t.TempDir(), "game")
	h.must("generate", "faster", "--endpoint", s.url+"/generate_game", "--user", alice, "--project", project, "-o", dir)
	if files := readGame(t, dir); len(files) != 3 || len(files["game.js"]) < 1000 {
		t.Errorf("the game came out as %d files", len(files))
	}
}
