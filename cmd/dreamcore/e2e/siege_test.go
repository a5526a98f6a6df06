package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

const (
	siegeMemory = 1 << 30 // the memory limit of the service, in bytes
	siegePeak   = 700     // MiB that the service may take of it
)

// siege is a service with little memory, attacking users, and users who only make
// games.
type siege struct {
	arena
	pid    int
	client *http.Client

	mu      sync.Mutex
	running map[string]bool // guarded by mu; the inputs that are played now
	faults  []string        // guarded by mu
	peak    int64           // guarded by mu; the largest resident size that a sample had, in bytes
	during  string          // guarded by mu; the inputs that were played then
}

// newSiege starts the service in a control group of its own. Its sandboxes have
// their own, as always.
func newSiege(t *testing.T) *siege {
	t.Helper()
	g := &siege{arena: arena{t: t, h: newHost(t)}, running: map[string]bool{}}
	// No keep-alive, so that no answer waits behind a slow reader's.
	g.client = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	api := httptest.NewServer(http.HandlerFunc(hostileUpstream))
	t.Cleanup(api.Close)
	g.install("./testdata/attacker")
	if r := g.h.runIn("sk-ant-"+random(), "secret", "create", "--force", "anthropic-api-key", "ANTHROPIC_API_KEY=-"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	g.h.env = append(g.h.env, "ANTHROPIC_BASE_URL="+api.URL, "DREAMCORE_DISK_MIB=512", "DREAMCORE_PROJECT_MIB=400",
		"DREAMCORE_MEMORY_MIB=512", "DREAMCORE_TIMEOUT=40m", "DREAMCORE_MAX_SANDBOXES=16", "DREAMCORE_MAX_GENERATIONS=13", "DREAMCORE_MIN_FREE_MIB=0", "DREAMCORE_LOG_LEVEL=warn", "DREAMCORE_SPARE_SANDBOXES=0")
	g.confine()
	g.pid = g.s.cmd.Process.Pid
	g.sample()
	return g
}

// confine starts the service with a limit on its memory.
func (g *siege) confine() {
	g.t.Helper()
	groups, err := cgroup.Detect()
	if err != nil {
		g.t.Fatal(err)
	}
	group, err := groups.Create(fmt.Sprintf("dreamcore-siege-%d", os.Getpid()), cgroup.Limits{MemoryBytes: siegeMemory})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := group.Remove(ctx); err != nil {
			g.t.Errorf("remove the group of the service: %v", err)
		}
	})
	script := "#!/bin/sh\nset -e\n"
	for _, dir := range group.Dirs() {
		script += "echo $$ >" + dir + "/cgroup.procs\n"
	}
	exe, confined := g.h.exe, filepath.Join(g.t.TempDir(), "confined")
	if err := os.WriteFile(confined, []byte(script+"exec "+exe+" \"$@\"\n"), 0o755); err != nil {
		g.t.Fatal(err)
	}
	g.h.exe = confined
	g.s = g.h.serve()
	g.h.exe = exe
	g.t.Cleanup(func() {
		if group.OutOfMemory() {
			g.t.Errorf("the service, or a process that it has started, was killed for its memory")
		}
		g.s.stop()
	})
}

// sample records the peak memory of the service until the test ends.
func (g *siege) sample() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			resident := processMemory(g.pid, "VmRSS")
			g.mu.Lock()
			if resident > g.peak {
				g.peak, g.during = resident, strings.Join(g.inputs(), ", ")
			}
			g.mu.Unlock()
		}
	}()
	g.t.Cleanup(func() { cancel(); <-done })
}

// inputs returns the names of the running inputs. mu must be held.
func (g *siege) inputs() (names []string) {
	for name := range g.running {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// processMemory returns a field of /proc/PID/status in bytes; 0 if the process
// has ended.
func processMemory(pid int, field string) int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

func (g *siege) fault(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = append(g.faults, fmt.Sprintf(format, args...))
}

// tail is a writer that keeps the last bytes.
type tail struct{ kept []byte }

func (w *tail) Write(p []byte) (int, error) {
	const most = 64 << 10
	w.kept = append(w.kept, p[max(0, len(p)-most):]...)
	w.kept = w.kept[max(0, len(w.kept)-most):]
	return len(p), nil
}

// request sends a request and returns the status and the end of the answer; the
// status is 0 if there was no complete answer.
func (g *siege) request(method, path string, body io.Reader) (status int, answer []byte) {
	req, err := http.NewRequest(method, g.s.url+path, body)
	if err != nil {
		g.fault("%s %s: %v", method, path, err)
		return 0, nil
	}
	req.Header.Set("X-Modal-Secret", g.s.secret)
	resp, err := g.client.Do(req)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	var end tail
	if _, err := io.Copy(&end, resp.Body); err != nil {
		return 0, []byte(err.Error())
	}
	return resp.StatusCode, end.kept
}

func (g *siege) post(path, body string) (status int, answer []byte) {
	return g.request(http.MethodPost, path, strings.NewReader(body))
}

func (g *siege) get(path, user, project string, more ...string) (status int, answer []byte) {
	q := url.Values{"user_id": {user}, "project_id": {project}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return g.request(http.MethodGet, path+"?"+q.Encode(), nil)
}

// apply sends a request to apply_files.
func (g *siege) apply(user, project, members string) (status int, answer []byte) {
	return g.post("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,%s}`, user, project, members))
}

// game makes a game with a script instead of the agent and returns the last event.
func (g *siege) game(ctx context.Context, user, project, script string) (last string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.s.url+"/generate_game", strings.NewReader(generateBody(user, project, script)))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("X-Modal-Secret", g.s.secret)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var end tail
	if _, err := io.Copy(&end, resp.Body); err != nil {
		return err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	text := "data: " + string(end.kept)
	return strings.TrimSpace(text[strings.LastIndex(text, "data: ")+len("data: "):])
}

const smallGame = "# small\necho \"<h1>$RANDOM</h1>\" >index.html; echo x >game.js"

// honest holds the durations that harmless users observed.
type honest struct {
	mu       sync.Mutex
	requests []time.Duration // guarded by mu
	games    []time.Duration // guarded by mu
}

// take returns the durations since the last call, sorted.
func (o *honest) take() (requests, games []time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	requests, games = o.requests, o.games
	o.requests, o.games = nil, nil
	slices.Sort(requests)
	slices.Sort(games)
	return requests, games
}

// browse reads a game until ctx ends and checks its content.
func (g *siege) browse(ctx context.Context, o *honest, user, project string) {
	for ctx.Err() == nil {
		for _, q := range []struct{ path, file, want string }{{"/list_files", "", "index.html"}, {"/get_file", "index.html", "<h1>"}} {
			begun := time.Now()
			status, answer := g.get(q.path, user, project, "path", q.file)
			took := time.Since(begun)
			if status != http.StatusOK || !bytes.Contains(answer, []byte(q.want)) {
				g.fault("another user's %s: %d %.200s", q.path, status, answer)
			}
			o.mu.Lock()
			o.requests = append(o.requests, took)
			o.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// work makes small games until ctx ends.
func (g *siege) work(ctx context.Context, o *honest, user, project string) {
	for ctx.Err() == nil {
		begun := time.Now()
		if last := g.game(context.Background(), user, project, smallGame); !strings.Contains(last, `"type":"done"`) {
			g.fault("another user's job: %.300s", last)
		}
		o.mu.Lock()
		o.games = append(o.games, time.Since(begun))
		o.mu.Unlock()
	}
}

// input is one attack; play runs it as one user.
type input struct {
	name string
	play func(g *siege, user string)
}

var anAgain = regexp.MustCompile(` again$`)

// scripts returns the inputs that run in sandboxes, with the requests about their
// projects afterwards. A section whose name ends in "again" uses the project of the
// previous one.
func (g *siege) scripts(told *strings.Replacer) (all []input) {
	files, _ := filepath.Glob("../../../testdata/adversarial/hostile/*.txtar")
	for _, file := range files {
		library := ""
		for _, a := range adversaries(g.t, file, told) {
			kind := "# hostile\n"
			switch {
			case a.name == "library":
				library = a.text
				continue
			case a.theme == "events":
				kind = "# flood\n"
			}
			text := kind + "echo '<h1>x</h1>' >index.html\n" + library + a.text
			if anAgain.MatchString(a.name) {
				before := all[len(all)-1].play
				play := g.script(a.name, text)
				all[len(all)-1].play = func(g *siege, user string) { before(g, user); play(g, user) }
				continue
			}
			all = append(all, input{a.theme + ": " + a.name, g.script(a.name, text)})
		}
	}
	return all
}

func (g *siege) script(name, text string) func(*siege, string) {
	project := uuid.NewSHA1(uuid.NameSpaceURL, []byte(anAgain.ReplaceAllString(name, ""))).String()
	project = project[:14] + "4" + project[15:] // projects have ids of version 4
	return func(g *siege, user string) {
		ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
		defer cancel()
		last := g.game(ctx, user, project, text)
		if !strings.Contains(last, `"type":"done"`) && !strings.Contains(last, `"type":"error"`) {
			g.fault("%s: the job has no end: %.300s", name, last)
		}
		g.t.Logf("%s: %.160s", name, last)
		g.inspect(name, user, project)
	}
}

// inspect calls every endpoint for a project, several at once.
func (g *siege) inspect(name, user, project string) {
	_, log := g.apply(user, project, `"action":"git_log"`)
	var hashes []string
	for _, m := range regexp.MustCompile(`"hash":"([0-9a-f]+)"`).FindAllSubmatch(log, -1) {
		hashes = append(hashes, string(m[1]))
	}
	var all sync.WaitGroup
	ask := func(what string, f func() (int, []byte)) {
		all.Go(func() {
			begun := time.Now()
			status, answer := f()
			switch {
			case status == 0: // a hostile user waits for a hostile project, which is theirs alone
				g.t.Logf("%s: %s: no answer after %s: %.200s", name, what, time.Since(begun).Round(time.Millisecond), answer)
			case status == http.StatusInternalServerError:
				g.fault("%s: %s: status %d after %s: %.300s", name, what, status, time.Since(begun).Round(time.Millisecond), answer)
			}
		})
	}
	for range 3 {
		ask("list_files", func() (int, []byte) { return g.get("/list_files", user, project) })
	}
	ask("get_file", func() (int, []byte) { return g.get("/get_file", user, project, "path", "index.html") })
	if len(hashes) > 0 {
		for _, hash := range []string{hashes[0], hashes[0], hashes[len(hashes)-1]} {
			ask("git_diff", func() (int, []byte) { return g.apply(user, project, `"action":"git_diff","commit":"`+hash+`"`) })
		}
	}
	ask("v2_generate_code", func() (int, []byte) {
		return g.post("/v2_generate_code", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"prompt":"SHAPE-hello"}`, user, project))
	})
	all.Wait()
	ask("apply_files", func() (int, []byte) {
		return g.apply(user, project, `"files":[{"path":"index.html","content":"<h1>y</h1>"},{"path":"a/b/c.js","content":"x"}]`)
	})
	all.Wait()
	if len(hashes) > 0 {
		ask("git_restore", func() (int, []byte) {
			return g.apply(user, project, `"action":"git_restore","commit":"`+hashes[len(hashes)-1]+`"`)
		})
	}
	all.Wait()
	g.show(name, user, project)
}

// show opens the preview of a game.
func (g *siege) show(name, user, project string) {
	_, answer := g.post("/preview_link", fmt.Sprintf(`{"user_id":%q,"project_id":%q}`, user, project))
	var link struct{ URL string }
	if json.Unmarshal(answer, &link) != nil || link.URL == "" {
		return // a job that could not begin has no project
	}
	u, err := url.Parse(link.URL)
	if err != nil {
		g.fault("%s: preview_link: %v", name, err)
		return
	}
	here, _ := url.Parse(g.s.url)
	for _, path := range []string{u.Path, "/f1.txt", "/d", "/game.js"} {
		req, _ := http.NewRequest(http.MethodGet, "http://"+here.Host+path, nil)
		req.Host = u.Host
		resp, err := g.client.Do(req)
		if err != nil {
			g.fault("%s: the preview %s: %v", name, path, err)
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

// attack plays inputs as several users at once.
func (g *siege) attack(inputs []input, users int) {
	var next atomic.Int64
	var all sync.WaitGroup
	for n := range users {
		all.Go(func() {
			for user := themeUser(100 + n); ; {
				i := int(next.Add(1)) - 1
				if i >= len(inputs) {
					return
				}
				g.play(inputs[i], user)
			}
		})
	}
	all.Wait()
}

func (g *siege) play(in input, user string) {
	g.mu.Lock()
	g.running[in.name] = true
	g.mu.Unlock()
	begun := time.Now()
	in.play(g, user)
	g.mu.Lock()
	delete(g.running, in.name)
	g.mu.Unlock()
	g.t.Logf("%-60s %6.1fs, now %4d MiB, at most %4d MiB", in.name, time.Since(begun).Seconds(), processMemory(g.pid, "VmRSS")>>20, processMemory(g.pid, "VmHWM")>>20)
}
