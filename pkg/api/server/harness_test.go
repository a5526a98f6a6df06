package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret    = "right-secret"
	secret2   = "second-secret"
	linkKey   = "0123456789abcdef0123456789abcdef"
	user      = "0b9e2c2e-93c5-4b0c-8a08-9d3c1a5b6f10"
	projectID = "5c0fbe1c-7f0b-4a3d-b0cb-0f0d5a9d3c11"
)

// generateBody is a valid request body of generate_game.
const generateBody = `{"user_id":"` + user + `","project_id":"` + projectID + `","prompt":"a snake game"}`

// generation is the work of a fake job; the log is closed after it.
type generation func(log *journal.Log)

// fakeGenerator runs fake jobs that write real logs.
type fakeGenerator struct {
	cancelErr error // of Cancel
	t         testing.TB
	store     *journal.Store
	run       generation
	jobs      sync.WaitGroup

	mu       sync.Mutex
	err      error // returned by Submit
	requests []dreamcore.GenerateRequest
	langs    []dreamcore.Language
	contexts []context.Context // contexts of listeners
	ids      []string
	stopped  []string
	warm     []dreamcore.UserID
	agents   []string // of Warm and Hint
}

func (g *fakeGenerator) Submit(ctx context.Context, request dreamcore.GenerateRequest, lang dreamcore.Language) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return "", g.err
	}
	job := uuid.NewString()
	log, err := g.store.Create(job)
	if err != nil {
		return "", err
	}
	g.requests, g.langs, g.contexts = append(g.requests, request), append(g.langs, lang), append(g.contexts, ctx)
	g.ids = append(g.ids, job)
	g.jobs.Go(func() {
		g.run(log)
		if err := log.Close(); err != nil {
			g.t.Error(err)
		}
	})
	return job, nil
}

func (g *fakeGenerator) Attach(ctx context.Context, _ string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.contexts = append(g.contexts, ctx)
}

func (g *fakeGenerator) Cancel(job string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = append(g.stopped, job)
	return g.cancelErr
}

// Get takes the state from the log, as the job service does.
func (g *fakeGenerator) Get(job string) (dreamcore.Job, error) {
	account, err := g.store.Account(job, nil)
	if err != nil {
		return dreamcore.Job{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	j := dreamcore.Job{ID: job, User: user, Project: projectID, State: dreamcore.JobRunning, LastEventID: account.LastID, CancelRequested: slices.Contains(g.stopped, job)}
	if state, ok := dreamcore.EndState(account.Last); ok {
		j.State, j.CancelRequested = state, false
	}
	return j, nil
}

func (g *fakeGenerator) List(dreamcore.JobFilter) (dreamcore.JobPage, error) {
	return dreamcore.JobPage{Jobs: []dreamcore.Job{}}, nil
}

func (g *fakeGenerator) Request(string) (dreamcore.GenerateRequest, dreamcore.Language, error) {
	return g.lastRequest(), dreamcore.English, nil
}

// listener returns the context of the n-th listener, counted from 0.
func (g *fakeGenerator) listener(n int) context.Context {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.contexts[n]
}

// Prewarm reports the sandbox as existing from the second call on.
func (g *fakeGenerator) Prewarm(_ context.Context, user dreamcore.UserID) (already bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	already = slices.Contains(g.warm, user)
	g.warm = append(g.warm, user)
	return already, g.err
}

// Warm notes the project.
func (g *fakeGenerator) Warm(_ context.Context, user dreamcore.UserID, project dreamcore.ProjectID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.agents = append(g.agents, "warm "+string(user)+"/"+string(project))
}

// Hint notes the project.
func (g *fakeGenerator) Hint(user dreamcore.UserID, project dreamcore.ProjectID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.agents = append(g.agents, "hint "+string(user)+"/"+string(project))
}

// started returns the agents that were to be started ahead.
func (g *fakeGenerator) started() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.agents, ", ")
}

func (g *fakeGenerator) lastRequest() dreamcore.GenerateRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.requests) == 0 {
		return dreamcore.GenerateRequest{}
	}
	return g.requests[len(g.requests)-1]
}

// events returns a generation that appends the given events.
func events(all ...dreamcore.Event) generation {
	return func(log *journal.Log) {
		for _, e := range all {
			_, _ = log.Append(e)
		}
	}
}

// fakeProber runs its fields as checks; checks of nil fields succeed.
type fakeProber struct {
	io     func(context.Context) (probe.IOResult, error)
	gvisor func(context.Context) (probe.Kernel, error)
	stream func(context.Context, func(dreamcore.Event) error) error
	volume func(context.Context) (probe.VolumeResult, error)
	deep   func(ctx context.Context, check, nonce string) (probe.Report, error)
}

func (p *fakeProber) Deep(ctx context.Context, check, nonce string) (probe.Report, error) {
	if p.deep != nil {
		return p.deep(ctx, check, nonce)
	}
	return probe.Report{Check: check, Evidence: []probe.Evidence{{Tried: "tcp=x", Seen: "refused " + nonce}}}, nil
}

func (p *fakeProber) SandboxIO(ctx context.Context) (probe.IOResult, error) {
	if p.io != nil {
		return p.io(ctx)
	}
	return probe.IOResult{Input: "hello", Output: "hello", Match: true}, nil
}

func (p *fakeProber) GVisor(ctx context.Context) (probe.Kernel, error) {
	if p.gvisor != nil {
		return p.gvisor(ctx)
	}
	return probe.Kernel{ProcVersion: "Linux version 4.19.0-gvisor", IsGVisor: true}, nil
}

func (p *fakeProber) Stream(ctx context.Context, emit func(dreamcore.Event) error) error {
	if p.stream != nil {
		return p.stream(ctx, emit)
	}
	for n := 1; n <= probe.Ticks; n++ {
		if err := emit(fmt.Appendf(nil, `{"count":%d,"timestamp":%d.5}`, n, n)); err != nil {
			return err
		}
	}
	return emit(dreamcore.Event(`{"type":"done"}`))
}

func (p *fakeProber) Volume(ctx context.Context) (probe.VolumeResult, error) {
	if p.volume != nil {
		return p.volume(ctx)
	}
	return probe.VolumeResult{TestID: projectID, Written: "text", Read: "text", Match: true}, nil
}

// service is a server on a real listener.
type service struct {
	t         testing.TB
	server    *Server
	addr      string
	url       string
	generator *fakeGenerator
	store     *journal.Store
	client    *http.Client
	stop      context.CancelFunc
	stopped   chan error // receives the result of Serve
}

type options struct {
	run    generation
	prober fakeProber
	config func(*Config)
}

func start(t testing.TB, o options) *service {
	t.Helper()
	store, err := journal.Open(t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if o.run == nil {
		o.run = events(dreamcore.StatusEvent("ready"), dreamcore.DoneEvent())
	}
	g := &fakeGenerator{t: t, store: store, run: o.run}
	game := aGame(t)
	cfg := Config{
		Version: "1.2.3", Secrets: func() []string { return []string{secret, "", secret2} },
		Generator: g, Jobs: g, Workspaces: g, Journal: store, Prober: &o.prober, Projects: game, Editor: aDesk(t, game), Skills: game,
		Previews: aPreview(t, game), Accounts: &fakeAccounts{}, Moves: &fakeMoves{}, Games: &fakeGames{}, LinkKey: linkKey, CORSOrigins: []string{"https://app.example.com"},
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metric 1\n") }),
	}
	if o.config != nil {
		o.config(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	sv := &service{
		server: s,
		t:      t, addr: ln.Addr().String(), url: "http://" + ln.Addr().String(), generator: g, store: store,
		client: &http.Client{Transport: &http.Transport{DisableCompression: true}}, stop: stop, stopped: make(chan error, 1),
	}
	go func() { sv.stopped <- s.Serve(ctx, ln); close(sv.stopped) }()
	t.Cleanup(func() {
		sv.client.CloseIdleConnections()
		stop()
		if err := <-sv.stopped; err != nil {
			t.Errorf("Serve: %v", err)
		}
		g.jobs.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return sv
}

// request returns a request with a valid secret; the caller may change host and
// secret before sending it.
func (sv *service) request(method, path, body string) *http.Request {
	sv.t.Helper()
	req, err := http.NewRequestWithContext(sv.t.Context(), method, sv.url+path, strings.NewReader(body))
	if err != nil {
		sv.t.Fatal(err)
	}
	req.Header.Set(SecretHeader, secret)
	return req
}

// requestFor returns a request that e answers with 200.
func (sv *service) requestFor(e endpoint, path string) *http.Request {
	sv.t.Helper()
	body := generateBody
	switch e.name {
	case "apply_files":
		body = applyBody(`"action":"git_log"`)
	case "get_skill_content":
		body = `{"skill_names":[]}`
	case "jobs/{id}/retry":
		body = ""
	case "moves/{subject}/hold", "moves/{subject}/release", "moves/{subject}/accept", "moves/{subject}/undo":
		body = `{"to":"cell-1","move":"m1"}`
	case "preview_link", "check_game":
		body = `{"user_id":"` + user + `","project_id":"` + projectID + `"}`
	case "test_deep":
		body = `{"check":"dns"}`
	}
	if strings.Contains(path, "{id}") {
		res := sv.do(sv.request(http.MethodPost, "/generate_game", generateBody))
		readStream(sv.t, res.Body).all() // only a job that has ended can be repeated
		path = strings.Replace(path, "{id}", res.Header.Get(JobHeader), 1)
	}
	path = strings.NewReplacer("{user_id}", user, "{subject}", user, "{project_id}", projectID).Replace(path)
	req := sv.request(e.methods[0], path, body)
	if e.methods[0] == http.MethodGet {
		req.Body, req.ContentLength = nil, 0
		q := req.URL.Query()
		if e.name != "users" {
			q.Set("user_id", user)
		}
		q.Set("project_id", projectID)
		req.URL.RawQuery = q.Encode()
	}
	return req
}

func (sv *service) do(req *http.Request) *http.Response {
	sv.t.Helper()
	res, err := sv.client.Do(req)
	if err != nil {
		sv.t.Fatal(err)
	}
	sv.t.Cleanup(func() { res.Body.Close() })
	return res
}

// post returns the status, header and JSON object of a response.
func (sv *service) post(path, body string) (int, http.Header, map[string]any) {
	sv.t.Helper()
	return object(sv.t, sv.do(sv.request(http.MethodPost, path, body)))
}

func object(t testing.TB, res *http.Response) (int, http.Header, map[string]any) {
	t.Helper()
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("status %d, not a JSON object: %.200q", res.StatusCode, raw)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type is %q", got)
	}
	return res.StatusCode, res.Header, v
}

// frame is one block of an event stream: an event or a comment.
type frame struct {
	id, data, comment string
}

// stream reads frames.
type stream struct {
	t testing.TB
	r *bufio.Reader
}

func readStream(t testing.TB, r io.Reader) *stream {
	return &stream{t: t, r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next frame. Its error is io.EOF at the end of the stream, and
// another one (such as io.ErrUnexpectedEOF) if the stream was cut.
func (s *stream) next() (frame, error) {
	s.t.Helper()
	var f frame
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			if err == io.EOF && (line != "" || f != frame{}) {
				err = io.ErrUnexpectedEOF
			}
			return frame{}, err
		}
		switch line = strings.TrimSuffix(line, "\n"); {
		case line == "":
			return f, nil
		case strings.HasPrefix(line, "id: "):
			f.id = line[len("id: "):]
		case strings.HasPrefix(line, "data: ") && f.data == "":
			f.data = line[len("data: "):]
		case strings.HasPrefix(line, ": "):
			f.comment = line[len(": "):]
		default:
			return frame{}, fmt.Errorf("line %.100q is not in the contract", line)
		}
	}
}

// all reads all events and checks that they are numbered.
func (s *stream) all() (data []string) {
	s.t.Helper()
	for {
		f, err := s.next()
		if errors.Is(err, io.EOF) {
			return data
		}
		if err != nil {
			s.t.Errorf("after %d events: %v", len(data), err)
			return data
		}
		if f.comment != "" {
			continue
		}
		data = append(data, f.data)
		if want := fmt.Sprint(len(data)); f.id != want {
			s.t.Errorf("event %s has id %q", want, f.id)
		}
	}
}

// raw opens a separate connection and writes text to it.
func (sv *service) raw(text string) net.Conn {
	sv.t.Helper()
	conn, err := net.Dial("tcp", sv.addr)
	if err != nil {
		sv.t.Fatal(err)
	}
	sv.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		sv.t.Fatal(err)
	}
	return conn
}

// head returns the start of a raw POST request.
func head(path, secret string, more ...string) string {
	lines := append([]string{"POST " + path + " HTTP/1.1", "Host: x", SecretHeader + ": " + secret}, more...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}
