// Package e2e tests the built program as users run it: the command line in a
// process of its own, the service over HTTP, real sandboxes, the real agent. Only
// the model behind the agent is scripted.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// claudeEnv is the variable with the agent's program; unset, PATH is searched.
const claudeEnv = "DREAMCORE_TEST_CLAUDE"

// standbyEnv is the variable with the number of standby sandboxes for users, so that
// every test can run with and without them; unset, there are none, because many tests
// count what runs.
const standbyEnv = "DREAMCORE_TEST_STANDBY_SANDBOXES"

// warmEnv is the variable with the number of agents that may wait for jobs, so that
// every test can run with and without them; unset, the default applies.
const warmEnv = "DREAMCORE_TEST_WARM"

// golden is a state directory after setup, which tests copy.
var golden struct {
	exe   string
	state string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "dreamcore-e2e-")
	if err != nil {
		panic(err)
	}
	golden.state = filepath.Join(dir, "golden")
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// host is one installation: a state directory and the program.
type host struct {
	t     *testing.T
	exe   string
	state string
	env   []string
	said  *record             // what the program has said, to search for secrets
	user  *syscall.Credential // who runs the program; nil: we
}

// newHost returns an installation after setup, without a key of the model API. At
// the end of the test nothing of it may remain on the machine.
func newHost(t *testing.T) *host {
	t.Helper()
	h := emptyHost(t)
	if _, err := os.Stat(golden.state); err != nil {
		h.must("setup", "--yes", "--claude", claude(t), "--state", golden.state)
	}
	if out, err := exec.Command("cp", "-a", golden.state, h.state).CombinedOutput(); err != nil {
		t.Fatalf("copy the state directory: %v\n%s", err, out)
	}
	return h
}

// unbounded turns off the users' file systems, so that a test can read their files
// on the host at any time.
func (h *host) unbounded() *host {
	h.env = append(h.env, "DREAMCORE_DISK_MIB=0")
	return h
}

// oneAttempt makes a crash end the jobs that it meets, so that a test sees what they
// have left.
func (h *host) oneAttempt() *host {
	h.env = append(h.env, "DREAMCORE_ATTEMPTS=1")
	return h
}

// emptyHost returns an installation before setup.
func emptyHost(t *testing.T) *host {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	if golden.exe == "" {
		golden.exe = sandboxtest.Binary(t)
		if os.Getenv(sandboxtest.BinaryEnv) == "" {
			// The directory of the first Binary is removed with the first test.
			kept := filepath.Join(filepath.Dir(golden.state), "dreamcore")
			if err := os.Rename(golden.exe, kept); err != nil {
				t.Fatal(err)
			}
			golden.exe = kept
		}
	}
	h := &host{t: t, exe: golden.exe, state: filepath.Join(t.TempDir(), "state")}
	h.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TERM=dumb", "DREAMCORE_ACCEPTANCE=off", "DREAMCORE_STATE=" + h.state}
	h.env = append(h.env, "DREAMCORE_STANDBY_SANDBOXES="+cmp.Or(os.Getenv(standbyEnv), "0"))
	if n := os.Getenv(warmEnv); n != "" {
		h.env = append(h.env, "DREAMCORE_WARM_AGENTS="+n)
	}
	dir := filepath.Dir(h.state)
	h.leavesNothing(dir)
	h.keepsSecrets()
	return h
}

// leavesNothing checks at the end of the test that the machine is as before.
func (h *host) leavesNothing(dir string) {
	t := h.t
	before := traces(t, h.exe, dir)
	t.Cleanup(func() {
		var left []string
		// The residue of a killed sandbox disappears shortly.
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			left = nil
			for _, s := range traces(t, h.exe, dir) {
				if !slices.Contains(before, s) {
					left = append(left, s)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("left on the machine:\n%s", strings.Join(left, "\n"))
	})
}

func claude(t *testing.T) string {
	t.Helper()
	if p := os.Getenv(claudeEnv); p != "" {
		return p
	}
	b, err := agent.Locate("")
	sandboxtest.Need(t, err == nil, "the agent: claude in PATH, or "+claudeEnv)
	return b.Path
}

// traces lists the possible residue of sandboxes: processes of the program, mounts,
// cgroups, sockets.
func traces(t *testing.T, exe, dir string) []string {
	t.Helper()
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, p := range procs {
		if link, err := os.Readlink(p); err == nil && isOurs(link, exe, dir) {
			found = append(found, "process "+p)
		}
	}
	for _, file := range []string{"/proc/self/mountinfo", "/proc/net/unix"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, dir) {
				found = append(found, file+": "+strings.TrimSpace(line))
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/dreamcore", "/sys/fs/cgroup/*/dreamcore"} {
		groups, _ := filepath.Glob(pattern)
		for _, g := range groups {
			found = append(found, leftGroups(g, exe, dir)...)
		}
	}
	return found
}

// leftGroups lists the leaf control groups at and below group, except those that
// contain only processes of other programs, which may run on this machine too.
func leftGroups(group, exe, dir string) (found []string) {
	entries, err := os.ReadDir(group)
	if err != nil {
		return nil
	}
	leaf := true
	for _, e := range entries {
		if e.IsDir() {
			leaf = false
			found = append(found, leftGroups(filepath.Join(group, e.Name()), exe, dir)...)
		}
	}
	if !leaf {
		return found
	}
	procs, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	pids := strings.Fields(string(procs))
	// Under runc the programs of a sandbox are processes of the host with other
	// names, but the supervisor is among them.
	ours := slices.ContainsFunc(pids, func(pid string) bool {
		link, err := os.Readlink("/proc/" + pid + "/exe")
		return err == nil && isOurs(link, exe, dir)
	})
	if len(pids) > 0 && !ours {
		return nil
	}
	return []string{"cgroup " + group}
}

// isOurs reports whether a process runs the program under test or its supervisor
// below dir.
func isOurs(link, exe, dir string) bool {
	link = strings.TrimSuffix(link, " (deleted)")
	return link == exe || strings.HasPrefix(link, dir+"/")
}

// result is the result of a command.
type result struct {
	stdout, stderr string
	code           int
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.exe, args...)
	cmd.Env = h.env
	if h.user != nil {
		cmd.Dir, cmd.SysProcAttr = filepath.Dir(h.state), &syscall.SysProcAttr{Credential: h.user}
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// run runs the program and waits for it.
func (h *host) run(args ...string) result { return h.runIn("", args...) }

func (h *host) runIn(stdin string, args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := h.command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	if !tells(args) {
		_, _ = h.said.output("standard output of dreamcore %v", args).Write(out.Bytes())
	}
	_, _ = h.said.output("standard error of dreamcore %v", args).Write(errOut.Bytes())
	if ctx.Err() != nil {
		h.t.Fatalf("dreamcore %v hangs\n%s\n%s", args, out.String(), errOut.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("dreamcore %v: %v", args, err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// must runs the program and expects success.
func (h *host) must(args ...string) string {
	h.t.Helper()
	r := h.run(args...)
	if r.code != 0 {
		h.t.Fatalf("dreamcore %v: exit code %d\n%s\n%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// service is a running `dreamcore serve`.
type service struct {
	h      *host
	cmd    *exec.Cmd
	url    string
	secret string
	log    *logBuffer
	done   chan struct{}
	err    error
}

var servingOn = regexp.MustCompile(`Serving on (http://\S+)`)

// serve starts the service on a free port and waits until it answers.
func (h *host) serve(args ...string) *service {
	h.t.Helper()
	s := h.launch(h.command(context.Background(), append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...))
	s.ready()
	return s
}

// launch starts the service with a command.
func (h *host) launch(cmd *exec.Cmd) *service {
	h.t.Helper()
	s := &service{h: h, cmd: cmd, log: &logBuffer{seen: make(chan struct{})}, done: make(chan struct{})}
	s.secret = strings.TrimSpace(h.must("secret", "show", "modal-internal-secret"))
	h.said.knows(s.secret)
	s.cmd.Stdout, s.cmd.Stderr = h.said.output("standard output of the service"), io.MultiWriter(s.log, h.said.output("log of the service"))
	if err := s.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	h.t.Cleanup(s.stop)
	return s
}

// ready waits until the service answers.
func (s *service) ready() {
	s.h.t.Helper()
	select {
	case <-s.log.seen:
	case <-s.done:
		s.h.t.Fatalf("the service ended: %v\n%s", s.err, s.log)
	case <-time.After(time.Minute):
		s.h.t.Fatalf("the service does not start\n%s", s.log)
	}
	s.url = s.log.url()
}

// stop ends the service gracefully and expects it to succeed.
func (s *service) stop() {
	select {
	case <-s.done:
		return
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		_ = s.cmd.Process.Kill()
		<-s.done
		s.h.t.Errorf("the service does not stop\n%s", s.log)
	}
	if s.err != nil {
		s.h.t.Errorf("the service ended with %v\n%s", s.err, s.log)
	}
	if s.h.t.Failed() {
		s.h.t.Logf("log of the service:\n%s", s.log)
	}
}

// kill kills the service like a crash.
func (s *service) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// post sends a request with the secret. The caller must close the body.
func (s *service) post(path, body string, header ...string) *http.Response {
	s.h.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		s.h.t.Fatal(err)
	}
	req.Header.Set("X-Modal-Secret", s.secret)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.h.t.Fatalf("POST %s: %v\n%s", path, err, s.log)
	}
	answer := s.h.said.output("answer to POST %s: %v", path, resp.Header)
	fmt.Fprint(answer, resp.Header)
	resp.Body = readCloser{io.TeeReader(resp.Body, answer), resp.Body}
	return resp
}

// readCloser reads from a Reader and closes a Closer.
type readCloser struct {
	io.Reader
	io.Closer
}

// object returns the JSON answer to a request.
func (s *service) object(path, body string, header ...string) (int, map[string]any) {
	s.h.t.Helper()
	resp := s.post(path, body, header...)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.h.t.Fatal(err)
	}
	var o map[string]any
	if err := json.Unmarshal(raw, &o); err != nil {
		s.h.t.Fatalf("POST %s: %v in %q", path, err, raw)
	}
	return resp.StatusCode, o
}

// file returns the answer of get_file, or its status.
func (s *service) file(user, project, name string) string {
	s.h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.url+"/get_file?"+url.Values{"user_id": {user}, "project_id": {project}, "path": {name}}.Encode(), nil)
	if err != nil {
		s.h.t.Fatal(err)
	}
	req.Header.Set("X-Modal-Secret", s.secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.h.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return string(raw)
}

// events returns all events of a stream, parsed like an old client does.
func (s *service) events(path, body string, header ...string) []map[string]any {
	s.h.t.Helper()
	resp := s.post(path, body, header...)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.h.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		s.h.t.Fatalf("POST %s: %s\n%s", path, resp.Status, raw)
	}
	return parseEvents(s.h.t, string(raw))
}

func parseEvents(t *testing.T, stream string) []map[string]any {
	t.Helper()
	var events []map[string]any
	for line := range strings.Lines(stream) {
		data, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "data: ")
		if !ok {
			continue
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			t.Fatalf("event %q: %v", data, err)
		}
		events = append(events, e)
	}
	return events
}

// generateBody returns a request body for generate_game.
func generateBody(user, project, prompt string, more ...string) string {
	m := map[string]string{"user_id": user, "project_id": project, "prompt": prompt}
	for i := 0; i+1 < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	b, _ := json.Marshal(m)
	return string(b)
}
