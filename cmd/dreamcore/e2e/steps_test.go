package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stepScript makes a job slow enough to be killed in every step.
const stepScript = `{"conversations":[[
	{"text":"I write.","delay_ms":100,"tools":[{"name":"Write","input":{"file_path":"{{cwd}}/index.html","content":"<p>one"}}]},
	{"text":"I run.","delay_ms":100,"tools":[{"name":"Bash","input":{"command":"sleep 0.5; date >> log.txt","description":"run"}}]},
	{"text":"Done.","delay_ms":100}
]]}`

// steps are the phases of a job as a client sees them. A kill comes up to lag after
// the event.
var steps = []struct {
	name, event string
	lag         time.Duration
}{
	{"the job is taken", `"Opening the project"`, 5 * time.Millisecond},
	{"the engine starts", `"Starting a sandbox"`, 200 * time.Millisecond},
	{"the agent starts", `"Starting the agent"`, 800 * time.Millisecond},
	{"the agent runs", `"subtype":"init"`, 300 * time.Millisecond},
	{"a tool runs", `I run.`, 500 * time.Millisecond},
	{"the version is saved", `"Saving the version"`, 20 * time.Millisecond},
	{"the sandbox waits for the next job", `"type":"done"`, 100 * time.Millisecond},
}

// targets are the processes to kill; each returns false if it does not run yet.
var targets = []struct {
	name string
	kill func(t *testing.T, s *service) bool
}{
	{"the service", func(_ *testing.T, s *service) bool { s.kill(); return true }},
	{"the sentry", func(t *testing.T, s *service) bool { return killEngine(t, s, "runsc-sandbox") }},
	{"the gofer", func(t *testing.T, s *service) bool { return killEngine(t, s, "runsc-gofer") }},
	{"PID 1", killInit},
	{"the agent", killAgent},
}

// killEngine kills the processes of the engine that have a name.
func killEngine(t *testing.T, s *service, name string) (found bool) {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range procs {
		raw, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(raw), name+"\x00") || !strings.Contains(string(raw), s.h.state) {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
	}
	return found
}

// killInit has the engine kill the first process of every sandbox.
func killInit(t *testing.T, s *service) (found bool) {
	t.Helper()
	states, _ := filepath.Glob(filepath.Join(s.h.state, "run", "i-*", "runsc", "s-*.state"))
	for _, file := range states {
		id, _, _ := strings.Cut(filepath.Base(file), "_")
		id = strings.TrimSuffix(id, ".state")
		cmd := exec.Command(s.h.exe, "runsc", "--root="+filepath.Dir(file), "kill", id, "KILL")
		found = cmd.Run() == nil || found
	}
	return found
}

// killAgent kills the agent from inside.
func killAgent(t *testing.T, s *service) bool {
	t.Helper()
	r := s.h.run("sandbox", "exec", "user-"+alice, "--", "sh", "-c",
		`for d in /proc/[0-9]*; do read -r name <$d/comm && [ "$name" = claude ] && kill -9 ${d#/proc/} && echo killed; done 2>/dev/null; true`)
	return strings.Contains(r.stdout, "killed")
}

// TestKillAtEveryStep kills every process at every step, in random order: a third of them, or
// DREAMCORE_TEST_ROUNDS. Each time the job gets exactly one last event, the next job works,
// and nothing remains.
func TestKillAtEveryStep(t *testing.T) {
	h := newHost(t).oneAttempt()
	type round struct{ step, victim int }
	var all []round
	for step := range steps {
		for victim := range targets {
			all = append(all, round{step, victim})
		}
	}
	rounds := len(all) / 3
	if n, err := strconv.Atoi(os.Getenv("DREAMCORE_TEST_ROUNDS")); err == nil {
		rounds = n
	}
	script := writeScript(t, stepScript)
	s := h.serve("--model-script", script)
	met := 0
	var order []int
	for i := range rounds {
		if len(order) == 0 {
			order = rand.Perm(len(all))
		}
		step, victim := steps[all[order[0]].step], targets[all[order[0]].victim]
		order = order[1:]
		name := fmt.Sprintf("round %d: %s is killed when %s", i, victim.name, step.name)
		job := startJob(t, s)
		terminal := job.until(step.event)
		time.Sleep(rand.N(step.lag))
		if victim.kill(t, s) {
			met++
		}
		if victim.name == "the service" {
			s = h.serve("--model-script", script)
		} else if !terminal {
			job.end(t, name)
		}
		job.close()
		// A service ends what an earlier one has left while it answers already.
		waitUpTo(t, time.Minute, "the end of the job", func() bool { return lastEvents(t, h, job.id) > 0 })
		if n := lastEvents(t, h, job.id); n != 1 {
			t.Errorf("%s: the job has %d last events\n%s", name, n, s.log)
		}
		// A damaged sandbox is replaced: the next job gets a working one.
		next := startJob(t, s)
		if last := next.end(t, name+", the next job"); !strings.Contains(last, `"done"`) {
			t.Errorf("%s: the next job ends with %s\n%s", name, last, s.log)
		}
		next.close()
		if t.Failed() {
			break
		}
	}
	t.Logf("%d of %d kills hit a process", met, rounds)
	if rounds >= len(all)/3 && met < rounds/2 {
		t.Errorf("only %d of %d kills hit a process", met, rounds)
	}
}

// jobStream is the event stream of a running job.
type jobStream struct {
	id   string
	body io.Closer
	read *bufio.Scanner
}

func startJob(t *testing.T, s *service) *jobStream {
	t.Helper()
	resp := s.post("/generate_game", generateBody(alice, project, "go on"))
	j := &jobStream{id: resp.Header.Get("X-Job-Id"), body: resp.Body, read: bufio.NewScanner(resp.Body)}
	j.read.Buffer(nil, 32<<20)
	if j.id == "" {
		t.Fatalf("no job: %s", resp.Status)
	}
	return j
}

// until reads to the event with the text, or to the last one; terminal reports
// whether the last one was read.
func (j *jobStream) until(text string) (terminal bool) {
	for j.read.Scan() {
		line := j.read.Text()
		terminal = strings.HasPrefix(line, `data: {"type":"done"`) || strings.HasPrefix(line, `data: {"type":"error"`)
		if strings.Contains(line, text) || terminal {
			return terminal
		}
	}
	return false
}

// end reads to the last event, which must come.
func (j *jobStream) end(t *testing.T, name string) (last string) {
	t.Helper()
	done := make(chan bool, 1)
	go func() { done <- j.until("\x00") }()
	select {
	case terminal := <-done:
		if !terminal {
			t.Errorf("%s: the stream has no last event: %v", name, j.read.Err())
		}
	case <-time.After(time.Minute):
		t.Fatalf("%s: the job does not end", name)
	}
	return j.read.Text()
}

func (j *jobStream) close() { _ = j.body.Close() }

// lastEvents counts the last events in the log of a job.
func lastEvents(t *testing.T, h *host, id string) (n int) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(h.state, "jobs", id+"*"))
	if len(files) != 1 {
		t.Fatalf("logs of job %s: %v", id, files)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var e struct{ Type string }
		if json.Unmarshal([]byte(line), &e) == nil && (e.Type == "done" || e.Type == "error") {
			n++
		}
	}
	return n
}
