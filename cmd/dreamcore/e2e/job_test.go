package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// watched is a stream of a job whose client can disconnect.
type watched struct {
	t     *testing.T
	job   string
	leave func()
	lines *bufio.Scanner
}

// watch begins to follow a job: a new one, if body is not empty.
func (s *service) watch(method, path, body string) *watched {
	s.h.t.Helper()
	ctx, leave := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.h.t.Fatalf("%s %s: %v, %v\n%s", method, path, resp, err, s.log)
	}
	w := &watched{t: s.h.t, job: resp.Header.Get("X-Job-Id"), lines: bufio.NewScanner(resp.Body)}
	w.lines.Buffer(nil, 16<<20)
	w.leave = func() {
		leave()
		_ = resp.Body.Close()
	}
	s.h.t.Cleanup(w.leave)
	return w
}

// until reads to the first event that matches and returns it; the last one if no
// event matches.
func (w *watched) until(is func(e map[string]any) bool) (last map[string]any) {
	w.t.Helper()
	for w.lines.Scan() {
		if data, ok := strings.CutPrefix(w.lines.Text(), "data: "); ok {
			last = nil
			if err := json.Unmarshal([]byte(data), &last); err != nil {
				w.t.Fatal(err)
			}
			if is(last) {
				return last
			}
		}
	}
	return last
}

func never(map[string]any) bool { return false }

func TestCancellingEndsAJob(t *testing.T) {
	const next = `,[{"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"next"}}]},{"text":"done"}]]}`
	h := newHost(t)
	s := h.serve("--model-script", writeScript(t, strings.TrimSuffix(waitScript, "]}")+next))
	began := func(user string) func() bool {
		return func() bool { return exists(projectFile(h, user, project, "began")) }
	}

	t.Run("and the next game begins at once", func(t *testing.T) {
		var toFirst, toAgent []time.Duration
		for _, user := range []string{"00000000-0000-4000-9000-000000000001", "00000000-0000-4000-9000-000000000002", "00000000-0000-4000-9000-000000000003"} {
			old := s.watch("POST", "/generate_game", generateBody(user, project, "wait"))
			waitFor(t, "the agent's command", began(user))
			begun := time.Now()
			old.leave()
			young := s.watch("POST", "/generate_game", generateBody(user, project, "go on"))
			young.until(func(map[string]any) bool { return true })
			toFirst = append(toFirst, time.Since(begun))
			young.until(func(e map[string]any) bool { return e["type"] == "system" })
			toAgent = append(toAgent, time.Since(begun))
			if last := young.until(never); last["type"] != "done" {
				t.Errorf("the next game ended with %v", last)
			}
			all := s.watch("GET", "/jobs/"+old.job+"/events", "")
			if saved := all.until(func(e map[string]any) bool { return strings.HasPrefix(text(e["content"]), "Git commit created") }); saved["type"] != "log" {
				t.Errorf("the version of what was made is missing: %v", saved)
			}
			if last := all.until(never); last["code"] != "CLI_TERMINATED" || last["exitCode"] != 143.0 {
				t.Errorf("the old game ended with %v", last)
			}
			if exists(projectFile(h, user, project, "ended")) {
				t.Error("the agent's command went on")
			}
		}
		slices.Sort(toFirst)
		slices.Sort(toAgent)
		t.Logf("from the abort to the first event %v, to the first one of the agent %v", toFirst, toAgent)
		if toFirst[1] > 2*time.Second {
			t.Errorf("the next game's first event came after %v at the median", toFirst[1])
		}
	})
	t.Run("but not for a client that comes back", func(t *testing.T) {
		w := s.watch("POST", "/generate_game", generateBody(alice, project, "wait"))
		waitFor(t, "the agent's command", began(alice))
		w.leave()
		back := s.watch("GET", "/jobs/"+w.job+"/events?after=2", "")
		finish(t, h, alice)
		if last := back.until(never); last["type"] != "done" {
			t.Errorf("it ended with %v\n%s", last, s.log)
		}
	})
	t.Run("nor for a detached game", func(t *testing.T) {
		w := s.watch("POST", "/generate_game", strings.TrimSuffix(generateBody(bob, project, "wait"), "}")+`,"detach":true}`)
		waitFor(t, "the agent's command", began(bob))
		w.leave()
		// Another game of the same user waits for it.
		second := s.watch("POST", "/generate_game", generateBody(bob, project, "go on"))
		if e := second.until(func(map[string]any) bool { return true }); e["message"] != "Waiting in the queue: place 1" {
			t.Errorf("the second game's first event is %v", e)
		}
		finish(t, h, bob)
		if last := second.until(never); last["type"] != "done" || !exists(projectFile(h, bob, project, "ended")) {
			t.Errorf("the second game ended with %v\n%s", last, s.log)
		}
	})
	t.Run("for the command line too", func(t *testing.T) {
		const carol = "ca401000-0000-4000-8000-000000000003"
		cmd := h.command(context.Background(), "generate", "wait", "--endpoint", s.url, "--secret-file", writeScript(t, s.secret), "--user", carol, "--project", project)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the agent's command", began(carol))
		begun := time.Now()
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("exit code %d", code)
		}
		second := s.watch("POST", "/generate_game", generateBody(carol, project, "x", "_test_error", "general"))
		second.until(never)
		if took := time.Since(begun); took > 8*time.Second { // the grace is 10 s
			t.Errorf("the user's next game had to wait for %v", took)
		}
		if !strings.Contains(s.log.String(), `reason="the job was cancelled"`) {
			t.Error("the command did not cancel its job by name")
		}
	})
}

// finish ends the command of waitScript.
func finish(t *testing.T, h *host, user string) {
	t.Helper()
	if err := os.WriteFile(projectFile(h, user, project, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
