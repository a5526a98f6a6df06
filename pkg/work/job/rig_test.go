package job

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

const (
	alice   = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")
	bob     = dreamcore.UserID("b0b00000-0000-4000-8000-000000000002")
	project = dreamcore.ProjectID("123e4567-e89b-42d3-a456-426614174000")

	good   = `{"type":"assistant","message":{"model":"m"}}` + "\n" + `{"type":"result","subtype":"success","is_error":false}` + "\n"
	agentU = 10000
)

// guest is the agent's program in a fake sandbox.
type guest struct {
	sandboxtest.Run
	spec sandbox.Spec
}

func (g guest) project() string { return g.below(0) }
func (g guest) home() string    { return g.below(1) }
func (g guest) sockets() string { return g.spec.Mounts[len(g.spec.Mounts)-1].Source }

// below returns the directory of the program's project in a mount.
func (g guest) below(mount int) string {
	return filepath.Join(g.spec.Mounts[mount].Source, path.Base(g.Dir))
}

// prompt waits for the prompt of the run.
func (g guest) prompt() (string, error) {
	var line struct{ Message struct{ Content string } }
	read := make(chan error, 1)
	go func() {
		lines := json.NewDecoder(g.Stdin)
		for line.Message.Content == "" { // a rehearsal comes before it
			if err := lines.Decode(&line); err != nil {
				read <- err
				return
			}
		}
		read <- nil
	}()
	select {
	case err := <-read:
		return line.Message.Content, err
	case <-g.Killed:
		return "", errKilled
	}
}

var errKilled = errors.New("killed before its prompt")

// arg returns the argument after a flag, or "".
func (g guest) arg(flag string) string {
	for i, a := range g.Args[:len(g.Args)-1] {
		if a == flag {
			return g.Args[i+1]
		}
	}
	return ""
}

func (g guest) say(text string) { _, _ = io.WriteString(g.Stdout, text) }

// write puts a file into the project.
func (g guest) write(name, content string) error {
	return os.WriteFile(filepath.Join(g.project(), name), []byte(content), 0o644)
}

// ask asks the model through the gateway and returns the status and the body.
func (g guest) ask(body string) (int, string, error) {
	var token string
	for _, e := range g.Env {
		if v, ok := strings.CutPrefix(e, "ANTHROPIC_API_KEY="); ok {
			token = v
		}
	}
	dir, err := os.Open(g.sockets())
	if err != nil {
		return 0, "", err
	}
	defer dir.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		// The path of a test's directory is too long for an address.
		return (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), gateway.SocketName))
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodPost, "http://model.invalid/v1/messages?beta=true", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Api-Key", token)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

// converse keeps a conversation in the same file as the CLI.
func (g guest) converse() error {
	id := g.arg("--session-id")
	if id == "" {
		return nil
	}
	file := filepath.Join(g.home(), agent.SessionFile(g.Dir, id))
	return errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("{}\n"), 0o600))
}

// agentSession returns a conversation, which is new unless it is resumed.
func agentSession(resumed bool) agent.Session { return agent.Session{ID: "x", Resume: resumed} }

// program plays a whole run of the agent. It succeeds with 0 and no error.
type program func(guest) (exit int, err error)

// makesGame writes a file and reports success.
func makesGame(g guest) (int, error) {
	g.say(`{"type":"system","subtype":"init"}` + "\n")
	if err := g.write("index.html", "<p>"+time.Now().String()); err != nil {
		return 0, err
	}
	g.say(good)
	return 0, nil
}

// untilStopped ends at SIGTERM, after it has made something.
func untilStopped(g guest) (int, error) {
	if err := g.write("half.js", "half"); err != nil {
		return 0, err
	}
	g.say("{\"type\":\"began\"}\n")
	select {
	case sig := <-g.Signals:
		return 128 + int(sig), nil
	case <-g.Killed:
		return 137, nil
	}
}

// rig is a service with real stores and fake sandboxes.
type rig struct {
	t       *testing.T
	service *Service
	parts   Parts
	spaces  workspace.Parts    // of the workspaces
	pooling workspace.Settings // of the workspaces
	dir     string
	log     *logBuffer
	closing sync.Once

	mu     sync.Mutex
	play   program                               // of the next run
	create func(*sandboxtest.Fake) error         // may change or fail a creation; may be nil
	wrap   func(sandbox.Sandbox) sandbox.Sandbox // may be nil
	lose   bool                                  // a mortal sandbox ends next time
	made   []*sandboxtest.Fake
	specs  []sandbox.Spec
}

// Create implements Sandboxes.
func (r *rig) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if err := errors.Join(ctx.Err(), spec.Validate()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &sandboxtest.Fake{Program: func(run sandboxtest.Run) (sandbox.Exit, error) {
		r.mu.Lock()
		play := r.play
		r.mu.Unlock()
		code, err := play(guest{run, spec})
		return sandbox.Exit{Code: code}, err
	}}
	r.specs = append(r.specs, spec)
	if r.create != nil {
		if err := r.create(f); err != nil {
			return nil, err
		}
	}
	r.made = append(r.made, f)
	if r.wrap != nil {
		return r.wrap(f), nil
	}
	return f, nil
}

type options struct {
	play     program
	settings func(*Settings)
	journal  journal.Options
	jobs     string // directory of the journal; "" for a new one
	upstream gateway.Upstream
	parts    func(*Parts)
	egress   *egress.Proxy
	agents   int    // that may wait
	late     bool   // sandboxes can get their user later
	files    int    // that a project may have
	dir      string // of an earlier service; "" for a new one
}

func newRig(t *testing.T, o options) *rig {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root") // projects belong to the user of sandboxes
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	r := &rig{t: t, dir: o.dir, play: o.play, log: &logBuffer{}}
	if r.play == nil {
		r.play = makesGame
	}
	if o.jobs == "" {
		o.jobs = filepath.Join(r.dir, "jobs")
	}
	logger := slog.New(slog.NewTextHandler(r.log, nil))
	volumes := must(volume.Open(filepath.Join(r.dir, "volumes"), volume.Options{UID: agentU, GID: agentU, ProjectFiles: o.files}))(t)
	for _, name := range []string{volume.Data, volume.Global} {
		must(volumes.Create(name))(t)
	}
	sockets := filepath.Join(r.dir, "sockets")
	if err := os.MkdirAll(sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	r.spaces = workspace.Parts{
		Sandboxes: r, Volumes: volumes, SocketDir: sockets, Egress: o.egress, Logger: logger, Late: o.late,
		Gateway: gateway.New(gateway.Config{Logger: logger, Upstream: o.upstream}),
	}
	r.parts = Parts{
		Volumes: volumes, Logger: logger, Records: must(record.Open(filepath.Join(r.dir, "index.db"), record.Options{}))(t),
		History: must(history.Open(filepath.Join(r.dir, "history"), history.Options{}))(t),
		Journal: must(journal.Open(o.jobs, o.journal))(t),
	}
	if o.parts != nil {
		o.parts(&r.parts)
	}
	settings := Settings{
		Agent:     agent.Config{Path: "/opt/claude", Home: "/home/agent", Socket: "/run/gw/" + gateway.SocketName, UID: agentU, GID: agentU},
		TimeLimit: time.Minute, OutputLines: 1000, Running: 2, Waiting: 4, PerUser: 3,
		DisconnectGrace: 10 * time.Second,
	}
	if o.settings != nil {
		o.settings(&settings)
	}
	r.pooling = workspace.Settings{
		Limits: workspace.Limits{Max: 4, Idle: time.Hour, MaxAge: time.Hour, WarmAgents: o.agents}, Env: settings.Agent.Given,
		Template: workspace.Template{
			Root: sandbox.Root{Path: r.dir}, AgentPath: settings.Agent.Path,
			AgentFile: filepath.Join(r.dir, "claude"), // only mounted, not run
			Home:      settings.Agent.Home, Socket: settings.Agent.Socket, UID: agentU, GID: agentU,
		},
	}
	r.spaces.Volumes, r.spaces.Audit = r.parts.Volumes, r.parts.Audit
	r.parts.Workspaces = must(workspace.New(r.spaces, r.pooling))(t)
	r.service = New(r.parts, settings)
	t.Cleanup(r.close)
	return r
}

// close closes the service, once, and checks that nothing is left.
func (r *rig) close() { r.closing.Do(r.end) }

func (r *rig) end() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	r.service.Close(now)
	err := errors.Join(r.parts.Workspaces.Close(now), r.spaces.Gateway.Close(context.Background()), r.parts.Journal.Close(), r.parts.Volumes.Close(), r.parts.Records.Close())
	if err != nil {
		r.t.Error(err)
	}
	if left, err := os.ReadDir(r.spaces.SocketDir); err != nil || len(left) > 0 {
		r.t.Errorf("remaining sockets: %v, %v", left, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, f := range r.made {
		if f.Closes() == 0 {
			r.t.Errorf("sandbox %d is not closed", i)
		}
	}
	a := r.service.admission
	if a.running != 0 || a.waiting != 0 || len(a.line) != 0 || len(a.users) != 0 {
		r.t.Errorf("admission is left with %d running, %d waiting, %d in line, %d users", a.running, a.waiting, len(a.line), len(a.users))
	}
	if len(r.service.jobs) != 0 {
		r.t.Errorf("%d jobs are left", len(r.service.jobs))
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func request(user dreamcore.UserID, prompt string) dreamcore.GenerateRequest {
	return dreamcore.GenerateRequest{User: user, Project: project, Prompt: prompt}
}

func (r *rig) submit(w dreamcore.GenerateRequest) string {
	r.t.Helper()
	return must(r.service.Submit(r.t.Context(), w, dreamcore.English))(r.t)
}

// run submits a request and returns its events.
func (r *rig) run(w dreamcore.GenerateRequest) []event {
	r.t.Helper()
	return r.events(r.submit(w))
}

// playing changes the program of the next runs.
func (r *rig) playing(p program) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.play = p
}

// event has the fields of an event that tests use.
type event struct {
	Type    string  `json:"type"`
	Message string  `json:"message"`
	Content string  `json:"content"`
	Code    string  `json:"code"`
	Exit    *int    `json:"exitCode"`
	Debug   int     `json:"exit_code"`
	Lines   int     `json:"output_line_count"`
	Commit  string  `json:"git_commit"`
	Timeout bool    `json:"timeout_reached"`
	Reused  bool    `json:"sandbox_reused"`
	Warm    bool    `json:"agent_warm"`
	User    string  `json:"userMessage"`
	Took    float64 `json:"elapsed_seconds"`
	Cost    float64 `json:"cost_usd"`
	Input   int64   `json:"input_tokens"`
	Output  int64   `json:"output_tokens"`
	Files   *int    `json:"files_changed"`
}

// limit bounds the wait for an event.
const limit = 30 * time.Second

// events reads a job to its end.
func (r *rig) events(id string) []event {
	r.t.Helper()
	return r.until(id, func(event) bool { return false })
}

// until reads a job up to the first event for which is returns true.
func (r *rig) until(id string, is func(event) bool) []event {
	r.t.Helper()
	reader := must(r.parts.Journal.Reader(id, 0))(r.t)
	defer reader.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	var all []event
	for {
		entry, err := reader.Next(ctx)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			r.t.Fatalf("after %+v: %v\n%s", all, err, r.log)
		}
		var e event
		if json.Unmarshal(entry.Event, &e) != nil {
			e = event{Type: dreamcore.EventType(entry.Event)} // a line of the agent in another form
		}
		all = append(all, e)
		if is(e) {
			return all
		}
	}
}

// ends checks the rules for the events of every job, and returns the last event and
// the debug event.
func (r *rig) ends(events []event) (last, debug event) {
	r.t.Helper()
	if len(events) < 2 {
		r.t.Fatalf("events: %+v\n%s", events, r.log)
	}
	var order []string
	for i, e := range events {
		order = append(order, e.Type)
		if (e.Type == "done" || e.Type == "error") != (i == len(events)-1) {
			r.t.Errorf("event %d of %d is %+v", i+1, len(events), e)
		}
		if strings.HasPrefix(e.Content, "Git commit created") && i >= len(events)-2 {
			r.t.Errorf("the version is event %d of %d", i+1, len(events))
		}
	}
	last, debug = events[len(events)-1], events[len(events)-2]
	if debug.Type != "debug" {
		r.t.Errorf("no debug event before the last: %v", order)
	}
	if (last.Type == "done") != (debug.Debug == 0) {
		r.t.Errorf("%s after exit code %d", last.Type, debug.Debug)
	}
	return last, debug
}

// versions returns the messages of the project's versions, the newest first.
func (r *rig) versions(user dreamcore.UserID) []string {
	r.t.Helper()
	var messages []string
	for _, v := range must(r.parts.History.Log(r.t.Context(), user, project, 0))(r.t) {
		messages = append(messages, v.Message)
	}
	return messages
}

func count(events []event, is func(event) bool) (n int) {
	for _, e := range events {
		if is(e) {
			n++
		}
	}
	return n
}

func says(text string) func(event) bool {
	return func(e event) bool { return strings.Contains(e.Message+e.Content, text) }
}

func isType(t string) func(event) bool { return func(e event) bool { return e.Type == t } }

// logBuffer is a log for tests.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

var errFake = errors.New("the fake fails")

func lines(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format+"\n", i)
	}
	return b.String()
}
