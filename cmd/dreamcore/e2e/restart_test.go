package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// supervisor holds the listener of services and starts them, as systemd does with a
// socket unit.
type supervisor struct {
	h      *host
	ln     net.Listener
	socket *os.File
	script string
}

func newSupervisor(h *host) *supervisor {
	h.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { ln.Close() })
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { socket.Close() })
	return &supervisor{h: h, ln: ln, socket: socket, script: writeScript(h.t, waitScript)}
}

// start starts a service with the listener, whose process id only its shell knows in
// advance.
func (v *supervisor) start(args ...string) *service {
	v.h.t.Helper()
	cmd := v.h.command(context.Background(), append([]string{"serve", "--model-script", v.script}, args...)...)
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", v.h.exe}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=any")
	cmd.ExtraFiles = []*os.File{v.socket}
	s := v.h.launch(cmd)
	s.url = "http://" + v.ln.Addr().String()
	return s
}

func (v *supervisor) serve() *service { return v.start("--listen", v.ln.Addr().String()) }

// caller sends one kind of request all the time.
type caller struct {
	name    string
	client  *http.Client
	request func() (*http.Request, error)
	want    func(status int, body string) bool

	answered atomic.Int64
	mu       sync.Mutex
	refused  int     // guarded by mu; connections
	failed   []error // guarded by mu; everything else
}

func (c *caller) run(ctx context.Context) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		switch err := c.once(ctx); {
		case ctx.Err() != nil:
		case err == nil:
			c.answered.Add(1)
		default:
			c.mu.Lock()
			if errors.Is(err, syscall.ECONNREFUSED) {
				c.refused++
			} else {
				c.failed = append(c.failed, err)
			}
			c.mu.Unlock()
		}
		<-pace.C
	}
}

func (c *caller) once(ctx context.Context) error {
	req, err := c.request()
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req.WithContext(ctx))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !c.want(resp.StatusCode, string(body)) {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// callers returns clients that use the service all the time, at the end of whose job
// seed everything is known. All open a connection for every request, but one.
func (s *service) callers(seed string) []*caller { return s.callersOf(alice, seed) }

// callersOf is callers for the job of a user.
func (s *service) callersOf(user, seed string) []*caller {
	get := func(path string) func() (*http.Request, error) {
		return func() (*http.Request, error) {
			req, err := http.NewRequest(http.MethodGet, s.url+path, nil)
			if err == nil {
				req.Header.Set("X-Modal-Secret", s.secret)
			}
			return req, err
		}
	}
	has := func(text string) func(int, string) bool {
		return func(status int, body string) bool { return status == http.StatusOK && strings.Contains(body, text) }
	}
	all := []*caller{
		{name: "health", request: get("/health"), want: has(`"healthy"`)},
		{name: "list_files", request: get("/list_files?user_id=" + user + "&project_id=" + project), want: has(`"ended"`)},
		{name: "get_file", request: get("/get_file?user_id=" + user + "&project_id=" + project + "&path=ended"), want: has("end")},
		{name: "events", request: get("/jobs/" + seed + "/events"), want: has(`{"type":"done","exit_code":0}`)},
		{name: "job", request: get("/jobs/" + seed), want: has(`"succeeded"`)},
		{name: "health, one connection", request: get("/health"), want: has(`"healthy"`)},
	}
	for i, c := range all {
		c.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: i < len(all)-1}, Timeout: 2 * time.Minute}
	}
	return all
}

// restartJobs is how many jobs run over a restart.
func restartJobs() int {
	if n, err := strconv.Atoi(os.Getenv("DREAMCORE_TEST_RESTART_JOBS")); err == nil {
		return n
	}
	return 3
}

// load is a service's jobs and callers.
type load struct {
	t       *testing.T
	h       *host
	callers []*caller
	running sync.WaitGroup
	stop    context.CancelFunc
}

func startLoad(t *testing.T, s *service) *load {
	t.Helper()
	write(t, s, alice, "go")
	seed := s.post("/generate_game", generateBody(alice, project, "begin"))
	raw, err := io.ReadAll(seed.Body)
	seed.Body.Close()
	if err != nil || !strings.Contains(string(raw), `"done"`) {
		t.Fatalf("%v\n%s\n%s", err, raw, s.log)
	}
	l := &load{t: t, h: s.h, callers: s.callers(seed.Header.Get("X-Job-Id"))}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for _, c := range l.callers {
		l.running.Go(func() {
			defer c.client.CloseIdleConnections()
			c.run(ctx)
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.running.Wait()
}

// goesOn waits until every caller has been answered some times more.
func (l *load) goesOn(when string) {
	l.t.Helper()
	for _, c := range l.callers {
		before := c.answered.Load()
		waitFor(l.t, "answers to "+c.name+" "+when, func() bool { return c.answered.Load() >= before+5 })
	}
}

// check ends the load and reports what went wrong. A crash may break connections that
// were accepted, but refuses none.
func (l *load) check(crashes int) {
	l.t.Helper()
	l.end()
	var answered int64
	broken := 0
	for _, c := range l.callers {
		answered += c.answered.Load()
		broken += len(c.failed)
		if c.refused > 0 {
			l.t.Errorf("%s: %d connections were refused", c.name, c.refused)
		}
		if len(c.failed) > crashes {
			l.t.Errorf("%s: %d requests failed, the first with: %v", c.name, len(c.failed), c.failed[0])
		}
	}
	l.t.Logf("%d requests were answered, %d broken, none refused", answered, broken)
}

// write puts an empty file into a user's project through the service.
func write(t *testing.T, s *service, user, name string) {
	t.Helper()
	resp := s.post("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":%q,"content":""}]}`, user, project, name))
	defer resp.Body.Close()
	if raw, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(raw), `"done"`) {
		t.Fatalf("%v, %s", err, raw)
	}
}

// begin starts jobs of different users that wait for release, and returns their
// streams.
func (l *load) begin(s *service, round int) (streams []*watched, release func()) {
	l.t.Helper()
	var users []string
	for i := range restartJobs() {
		user := fmt.Sprintf("%08d-0000-4000-9000-%012d", round, i)
		users = append(users, user)
		streams = append(streams, s.watch(http.MethodPost, "/generate_game", generateBody(user, project, "wait")))
	}
	for _, user := range users {
		for !exists(projectFile(l.h, user, project, "began")) { // one after the other, each in time
			l.wait("the agent of "+user, projectFile(l.h, user, project, "began"))
		}
	}
	return streams, func() {
		for _, user := range users {
			if err := os.WriteFile(projectFile(l.h, user, project, "go"), nil, 0o644); err != nil {
				l.t.Error(err)
			}
		}
	}
}

// wait waits for a file, longer the more jobs there are.
func (l *load) wait(what, file string) {
	l.t.Helper()
	for end := time.Now().Add(time.Duration(10+restartJobs()) * 10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if exists(file) {
			return
		}
	}
	l.t.Fatalf("waited in vain for %s", what)
}

// ended waits for the end of the process, which succeeds.
func (s *service) ended() {
	s.h.t.Helper()
	<-s.done
	if s.err != nil {
		s.h.t.Errorf("the service ended with %v\n%s", s.err, s.log)
	}
}

// TestARestartRefusesNoConnection restarts a service that is busy, with the next
// process beside the old one, after it, and after a crash. DREAMCORE_TEST_RESTART_JOBS
// jobs run each time.
func TestARestartRefusesNoConnection(t *testing.T) {
	h := newHost(t).unbounded()
	h.env = append(h.env, "DREAMCORE_GRACE=10m", fmt.Sprintf("DREAMCORE_MAX_GENERATIONS=%d", restartJobs()+1))
	v := newSupervisor(h)
	first := v.serve()
	first.ready()
	l := startLoad(t, first)

	streams, release := l.begin(first, 1)
	if err := first.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the drain", func() bool { return strings.Contains(first.log.String(), "draining") })
	second := v.serve()
	waitFor(t, "the next service", func() bool { return strings.Contains(second.log.String(), "waiting for the end of the service") })
	resp := first.post("/generate_game", generateBody(bob, project, "another"))
	raw, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(raw), `"STOPPING"`) {
		t.Errorf("a new game during the drain: %s, %s", resp.Status, raw)
	}
	l.goesOn("during the drain")
	release()
	for _, stream := range streams {
		if last := stream.until(never); last["type"] != "done" {
			t.Errorf("job %s ended with %v", stream.job, last)
		}
	}
	first.ended()
	second.ready()
	l.goesOn("of the second process")

	streams, release = l.begin(second, 2)
	if err := second.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the drain", func() bool { return strings.Contains(second.log.String(), "draining") })
	release()
	for _, stream := range streams {
		if last := stream.until(never); last["type"] != "done" {
			t.Errorf("job %s ended with %v", stream.job, last)
		}
	}
	second.ended()
	third := v.serve()
	third.ready()
	l.goesOn("of the third process")
	l.check(0)

	l = startLoad(t, third)
	streams, release = l.begin(third, 3)
	third.kill()
	release()
	fourth := v.serve()
	fourth.ready()
	l.goesOn("after the crash")
	for _, stream := range streams {
		last := fourth.watch(http.MethodGet, "/jobs/"+stream.job+"/events", "").until(never)
		if last["type"] != "done" && last["code"] != "CLI_TERMINATED" {
			t.Errorf("job %s ended with %v", stream.job, last)
		}
	}
	l.check(1)
}

func TestAnInheritedSocketOfAnotherAddressIsRefused(t *testing.T) {
	v := newSupervisor(newHost(t))
	cmd := v.start("--listen", "127.0.0.2:1")
	<-cmd.done
	if code := cmd.cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(cmd.log.String(), "but listen is 127.0.0.2:1") || !strings.Contains(cmd.log.String(), "dreamcore deploy") {
		t.Errorf("exit code %d\n%s", code, cmd.log)
	}
}
