package e2e

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const endlessScript = `{"conversations":[[{"tools":[{"name":"Bash","input":{"command":"touch began; sleep 300","description":"wait"}}]},{"text":"done"}]]}`

func TestATerminalThatIsClosedEndsAGenerationCleanly(t *testing.T) {
	// If the tests ignore SIGHUP, as under nohup, their children would too. A signal
	// that is handled here has its default there.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, syscall.SIGHUP)
	defer signal.Stop(handled)
	h := newHost(t)
	cmd := h.command(context.Background(), "generate", "wait for ever", "--user", alice, "--project", project, "--model-script", writeScript(t, endlessScript), "--json")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the agent's command", func() bool { return exists(projectFile(h, alice, project, "began")) })
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(out.String(), "Git commit created") {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
}

func TestAReaderThatGoesAwayEndsAGenerationCleanly(t *testing.T) {
	h := newHost(t)
	cmd := h.command(context.Background(), "generate", "wait for ever", "--user", alice, "--project", project, "--model-script", writeScript(t, endlessScript), "--json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The project is new, which is said before the job begins.
	lines := bufio.NewReaderSize(stdout, 16)
	for _, kind := range []string{"warning", "job", "status"} {
		if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, `{"type":"`+kind+`"`) {
			t.Errorf("line %q, want a %s; %v", line, kind, err)
		}
	}
	_ = stdout.Close() // as head does
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d, want 130: no clean end", code)
	}
	// The log of the job has its end: the next start has nothing to repair.
	logs, _ := filepath.Glob(filepath.Join(h.state, "jobs", "*"))
	if len(logs) != 1 {
		t.Fatalf("logs %v", logs)
	}
	raw, err := os.ReadFile(logs[0])
	if err != nil || !strings.Contains(string(raw), `"type":"error"`) {
		t.Errorf("%s, %v", raw, err)
	}
}

// The next service goes on with the job: its stream must not look complete.
func TestAStopCutsTheStreamsOfJobsThatGoOn(t *testing.T) {
	h := newHost(t)
	h.env = append(h.env, "DREAMCORE_GRACE=1s")
	s := h.serve("--model-script", writeScript(t, endlessScript))
	resp := s.post("/generate_game", generateBody(alice, project, "wait"))
	defer resp.Body.Close()
	waitFor(t, "the agent's command", func() bool { return exists(projectFile(h, alice, project, "began")) })
	began := time.Now()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.stop()
	}()
	raw, err := io.ReadAll(resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v", err)
	}
	events := parseEvents(t, string(raw))
	if last := events[len(events)-1]; last["type"] == "error" || last["type"] == "done" {
		t.Errorf("the stream ended with %v\n%s", last, s.log)
	}
	<-stopped
	if d := time.Since(began); d > 12*time.Second {
		t.Errorf("the service took %v to stop", d)
	}
}

func TestGateRunsWithoutTheAgent(t *testing.T) {
	h := newHost(t)
	if err := os.Remove(filepath.Join(h.state, "agent", "agent.json")); err != nil {
		t.Fatal(err)
	}
	if out := h.must("gate", "sandbox-io", "isolation", "--json"); !strings.Contains(out, `"passed":true`) {
		t.Errorf("where setup's proof has failed, its hint is of no use: %s", out)
	}
}

func TestAClientMakesNoStateDirectory(t *testing.T) {
	h := emptyHost(t)
	for _, args := range [][]string{{"secret", "list"}, {"gate", "auth", "--endpoint", "http://127.0.0.1:1"}, {"generate", "x", "--endpoint", "http://127.0.0.1:1"}} {
		if r := h.run(args...); r.code == 0 || exists(h.state) {
			t.Errorf("%v: exit code %d; state directory: %v", args, r.code, exists(h.state))
		}
	}
}
