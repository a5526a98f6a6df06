package e2e

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hangup sends SIGHUP to the service.
func (s *service) hangup() {
	s.h.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		s.h.t.Fatal(err)
	}
}

// logs waits until the service has logged a line that contains all of parts.
func (s *service) logs(parts ...string) {
	s.h.t.Helper()
	waitFor(s.h.t, "the line of the log with "+strings.Join(parts, ", "), func() bool {
		for line := range strings.Lines(s.log.String()) {
			found := true
			for _, p := range parts {
				found = found && strings.Contains(line, p)
			}
			if found {
				return true
			}
		}
		return false
	})
}

// defaultHangups gives SIGHUP its default effect in the programs that a test
// starts, also under nohup.
func defaultHangups(t *testing.T) {
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(handled) })
}

func TestSIGHUPReloadsTheConfiguration(t *testing.T) {
	defaultHangups(t)
	h := newHost(t)
	file := filepath.Join(h.state, "config.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("timeout: 100s\n")
	script := writeScript(t, endlessScript)
	s := h.serve("--model-script", script)

	write("timeout: 200s\nmax_turns: 7\naudit_mib: 9\n")
	time.Sleep(time.Second) // twice what --dev takes
	if strings.Contains(s.log.String(), "reload") {
		t.Errorf("reloaded without being asked:\n%s", s.log)
	}
	s.hangup()
	s.logs("reloaded", "on request", "max_turns", "timeout")
	s.logs("need a restart", "audit_mib")

	// A file that is invalid changes nothing, and the next one is taken up.
	write("timeout: soon\n")
	s.hangup()
	s.logs("the old settings stay", "timeout", "soon")
	if r := h.run("config", "check"); r.code == 0 {
		t.Errorf("systemctl reload would not fail: %s", r.stdout)
	}
	next := `{"conversations":[[{"tools":[{"name":"Write","input":{"file_path":"index.html","content":"reloaded"}}]},{"text":"done"}]]}`
	if err := os.WriteFile(script, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	write("timeout: 300s\nmax_turns: 7\naudit_mib: 9\n")
	s.hangup()
	waitFor(t, "the second reload", func() bool { return strings.Count(s.log.String(), "msg=reloaded") == 2 })
	if events := s.events("/generate_game", generateBody(bob, project, "x")); events[len(events)-1]["type"] != "done" {
		t.Errorf("after the reload: %v", events[len(events)-1])
	}
}

func TestSIGHUPDoesNotCutAStopShort(t *testing.T) {
	defaultHangups(t)
	h := newHost(t)
	h.env = append(h.env, "DREAMCORE_GRACE=2s")
	s := h.serve("--model-script", writeScript(t, endlessScript))
	resp := s.post("/generate_game", generateBody(alice, project, "wait"))
	defer resp.Body.Close() // the job has begun, and does not end by itself
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.logs("Stopping")
	s.hangup()
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		t.Fatalf("the service does not stop\n%s", s.log)
	}
	if s.err != nil {
		t.Errorf("the service ended with %v\n%s", s.err, s.log)
	}
}

func TestATerminalThatIsClosedEndsTheService(t *testing.T) {
	defaultHangups(t)
	h := newHost(t)
	m := newTerminal(t)
	cmd := h.command(context.Background(), "serve", "--listen", "127.0.0.1:0", "--model-script", "demo")
	m.attach(cmd)
	s := h.launch(cmd) // its output goes to the test
	s.ready()
	s.hangup()
	s.logs("reloaded", "on request") // on a terminal that is open, too
	m.hangUp()
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		t.Errorf("the service runs on\n%s", s.log)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 && code != 130 {
		t.Errorf("exit code %d\n%s", code, s.log)
	}
}
