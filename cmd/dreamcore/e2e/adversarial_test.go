package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// arena is a service with a running job of another user as the target, an upstream
// that records its requests, and canaries where no sandbox may reach.
type arena struct {
	t    *testing.T
	h    *host
	s    *service
	api  *recorder
	told *strings.Replacer

	secret  []canaryText // must never be found
	control string       // is within reach of everybody
	answer  string       // what the model says when it is asked for a control
	victim  chan struct{}
	logged  int // bytes of the service's log that were searched
}

// random returns a text that occurs nowhere else.
func random() string {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw)
	return hex.EncodeToString(raw)
}

// recorder is the model API: a real server that requires the key, records the
// rest of each request, and repeats the key in its answers.
type recorder struct {
	*httptest.Server
	t       *testing.T
	key     string
	control string

	mu   sync.Mutex
	seen bytes.Buffer
}

// sendable lists the headers that a request of the gateway may have.
var sendable = []string{"Accept", "Accept-Encoding", "Anthropic-Beta", "Anthropic-Version", "Content-Length", "Content-Type", "User-Agent", "X-Api-Key"}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	if p := q.URL.Path; q.Method != http.MethodPost || p != "/v1/messages" && p != "/v1/messages/count_tokens" || q.URL.RawQuery != "" && q.URL.RawQuery != "beta=true" {
		r.t.Errorf("a request got through: %s %s", q.Method, q.RequestURI)
	}
	if keys := q.Header.Values("X-Api-Key"); len(keys) != 1 || keys[0] != r.key {
		r.t.Errorf("the upstream got the keys %q", keys)
	}
	q.Header.Del("X-Api-Key")
	r.mu.Lock()
	fmt.Fprintln(&r.seen, q.Method, q.RequestURI, q.Host, q.Trailer)
	for name, values := range q.Header {
		fmt.Fprintln(&r.seen, name, values)
		if !slices.Contains(sendable, name) {
			r.t.Errorf("a header got through: %s: %q", name, values)
		}
	}
	r.seen.Write(body)
	r.mu.Unlock()
	var asked struct{ Model string }
	_ = json.Unmarshal(body, &asked)
	text := "hello"
	w.Header().Set("Content-Type", "application/json")
	switch status, failing := strings.CutPrefix(asked.Model, "reflect-error-"); {
	case failing:
		code, _ := strconv.Atoi(status)
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"type":"error","error":{"type":"x","message":"your key %s is no good: %s"}}`, r.key, r.key[8:])
		return
	case asked.Model == "error-control":
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"type":"error","error":{"type":"invalid_request_error","message":"see %s"}}`, r.control)
		return
	case asked.Model == "echo-control":
		text = r.control
	case asked.Model == "reflect-header":
		for _, name := range []string{"X-Api-Key", "Request-Id", "Set-Cookie", "Retry-After", "X-Should-Retry", "Trailer", "Link"} {
			w.Header().Set(name, "key="+r.key)
		}
	case asked.Model == "redirect":
		w.Header().Set("Location", "/v1/stolen?key="+r.key)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return
	}
	fmt.Fprintf(w, `{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":%q}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}`, text)
}

// take returns the requests since the last call.
func (r *recorder) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.seen.Reset()
	return bytes.Clone(r.seen.Bytes())
}

// newArena sets everything up. The end of the test removes its files outside of
// the test's own directory.
func newArena(t *testing.T) *arena {
	t.Helper()
	a := &arena{t: t, h: newHost(t), control: "control-" + random(), answer: "answer-" + random(), victim: make(chan struct{})}
	h := a.h
	key := "sk-ant-" + random()
	a.api = &recorder{t: t, key: key, control: a.answer}
	a.api.Server = httptest.NewServer(a.api)
	t.Cleanup(a.api.Close)
	a.install("./testdata/attacker")
	if r := h.runIn(key, "secret", "create", "--force", "anthropic-api-key", "ANTHROPIC_API_KEY=-"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	environment := "env-" + random()
	h.env = append(h.env, "ANTHROPIC_BASE_URL="+a.api.URL, "OPERATORS_OWN="+environment,
		"DREAMCORE_DISK_MIB=48", "DREAMCORE_MEMORY_MIB=384", "DREAMCORE_TIMEOUT=40m", "DREAMCORE_LOG_LEVEL=debug", "DREAMCORE_MAX_SANDBOXES=4", "DREAMCORE_MIN_FREE_MIB=0")
	a.canaryText("the API key", key)
	a.canaryText("the environment of the service", environment)
	told := []string{"%STATE%", h.state, "%BOB%", bob, "%BOBPROJECT%", otherProject}
	for name, parent := range map[string]string{"%HOST%": "/var/tmp", "%ROOT%": "/root"} {
		dir, err := os.MkdirTemp(parent, "host-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		text := "host-" + random()
		for _, err := range []error{os.Chmod(dir, 0o777), os.WriteFile(filepath.Join(dir, "canary"), []byte(text), 0o666)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		told = append(told, name, dir)
		a.canaryText("a file in "+parent, text)
	}
	if err := os.WriteFile(filepath.Join(h.state, "volumes/dreamcore-global/control"), []byte(a.control), 0o644); err != nil {
		t.Fatal(err)
	}
	identities, _ := filepath.Glob(filepath.Join(h.state, "secrets/identity*"))
	for _, name := range identities {
		raw, err := os.ReadFile(name)
		_, secret, found := strings.Cut(string(raw), "AGE-SECRET-KEY-")
		if err != nil || !found {
			t.Fatalf("the identity in %s: %v", name, err)
		}
		a.canaryText("the identity", strings.TrimSpace(secret))
	}
	if len(identities) == 0 {
		t.Fatal("there is no identity")
	}
	a.s = h.serve()
	a.canaryText("the internal secret", a.s.secret)
	here, _ := url.Parse(a.s.url)
	there, _ := url.Parse(a.api.URL)
	told = append(told, "%PID%", strconv.Itoa(a.s.cmd.Process.Pid), "%PORT%", here.Port(), "%UPSTREAM%", there.Port())
	a.told = strings.NewReplacer(told...)
	a.startTarget()
	return a
}

func (a *arena) canaryText(name, text string) { a.secret = append(a.secret, newCanary(name, text)) }

// install replaces the agent by a program of the tests.
func (a *arena) install(source string) {
	a.t.Helper()
	exe := filepath.Join(a.t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-o", exe, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("%v\n%s", err, out)
	}
	fi, err := os.Stat(exe)
	if err == nil {
		err = agent.Record(filepath.Join(a.h.state, "agent"), agent.Binary{Path: exe, Version: "attacker", Size: fi.Size(), Modified: fi.ModTime(), Proven: time.Now()})
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// startTarget starts the other user's job, which runs until the arena ends, with
// a file, a token and an environment to steal.
func (a *arena) startTarget() {
	a.t.Helper()
	file, ready := "bob-"+random(), projectFile(a.h, bob, otherProject, "token.txt")
	script := fmt.Sprintf("# victim\nprintf %s >secret.txt; cp secret.txt ~/secret.txt; cp secret.txt /tmp/secret.txt; printf %%s \"$TOKEN\" >token.new; mv token.new token.txt; exec sleep 1700", file)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(a.victim)
		_, _ = a.generate(ctx, bob, otherProject, script)
	}()
	a.t.Cleanup(func() {
		a.h.run("sandbox", "stop", "user-"+bob)
		cancel()
		<-a.victim
	})
	var token []byte
	for end := time.Now().Add(time.Minute); len(token) == 0; time.Sleep(50 * time.Millisecond) {
		if token, _ = os.ReadFile(ready); time.Now().After(end) {
			a.t.Fatalf("the victim does not start\n%s", a.s.log)
		}
	}
	a.canaryText("a file of the other user", file)
	a.canaryText("the token of the other job", strings.TrimPrefix(string(token), "sk-dreamcore-"))
}

// generate runs a job and returns its whole stream.
func (a *arena) generate(ctx context.Context, user, project, prompt string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.s.url+"/generate_game", strings.NewReader(generateBody(user, project, prompt)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Modal-Secret", a.s.secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// run runs a script as a job of a user and returns its outputs by where they came
// from.
func (a *arena) run(user, text string) map[string][]byte {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	stream, err := a.generate(ctx, user, project, text)
	if err != nil || !bytes.Contains(stream, []byte(`"type":"done"`)) && !bytes.Contains(stream, []byte(`"type":"error"`)) {
		a.t.Errorf("no end: %v\n%.2000s\n%s", err, stream, a.s.log)
	}
	out := map[string][]byte{"events": stream, "upstream": a.api.take(), "log": a.newLog()}
	out["output"] = outputs(stream)
	users := filepath.Join(a.h.state, "volumes/dreamcore-data/users", user)
	out["project"] = readTree(a.t, filepath.Join(users, "projects"))
	out["home"] = readTree(a.t, filepath.Join(users, "homes"))
	return out
}

// newLog returns what the service has logged since the last call, with what could be the
// beginning of a canary before it.
func (a *arena) newLog() []byte {
	const overlap = 1 << 10
	log := a.s.log.String()
	text := log[max(a.logged-overlap, 0):]
	a.logged = len(log)
	return []byte(text)
}

// outputs returns the decoded outputs of scripts in a stream.
func outputs(stream []byte) (all []byte) {
	for line := range bytes.Lines(stream) {
		data, _ := bytes.CutPrefix(line, []byte("data: "))
		var e struct{ Raw []byte }
		if json.Unmarshal(data, &e) == nil {
			all = append(all, e.Raw...)
		}
	}
	return all
}

// journal returns the event logs without the victim's, which begins with its request
// and so holds the canary. The index repeats what the logs say.
func (a *arena) journal() (all []byte) {
	a.t.Helper()
	logs, err := filepath.Glob(filepath.Join(a.h.state, "jobs", "*.ndjson"))
	if err != nil || len(logs) == 0 {
		a.t.Errorf("no event logs: %v", err)
	}
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			a.t.Error(err)
		}
		request, _, _ := bytes.Cut(text, []byte("\n"))
		if !bytes.Contains(request, []byte(`"user":"`+bob+`"`)) {
			all = append(all, text...)
		}
	}
	return all
}

// leaves returns the user's data that the host keeps: events, versions, and the
// answers of the service about the files.
func (a *arena) leaves(user string) map[string][]byte {
	a.t.Helper()
	out := map[string][]byte{"journal": a.journal(), "log": a.newLog()}
	repo := filepath.Join(a.h.state, "history", user, project+".git")
	text, err := exec.Command("git", "--git-dir="+repo, "log", "-p", "--all", "--text", "--no-textconv", "--no-ext-diff").Output()
	if err != nil {
		a.t.Errorf("read the versions: %v", err)
	}
	out["versions"] = text
	query := "?user_id=" + user + "&project_id=" + project
	list, _ := os.ReadDir(projectFile(a.h, user, project, ""))
	var served bytes.Buffer
	for _, path := range append([]string{"list"}, names(list)...) {
		address := a.s.url + "/get_file" + query + "&path=" + url.QueryEscape(path)
		if path == "list" {
			address = a.s.url + "/list_files" + query
		}
		req, _ := http.NewRequest(http.MethodGet, address, nil)
		req.Header.Set("X-Modal-Secret", a.s.secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			a.t.Errorf("get %s: %v", path, err)
			continue
		}
		_, _ = io.Copy(&served, io.LimitReader(resp.Body, 4<<20))
		_ = resp.Body.Close()
	}
	out["served"] = served.Bytes()
	return out
}

func names(list []os.DirEntry) (all []string) {
	for _, e := range list {
		all = append(all, e.Name())
	}
	return all
}

// judge reports every canary and every breach in the outputs.
func (a *arena) judge(t *testing.T, out map[string][]byte) (found int) {
	for where, raw := range out {
		text := newSearched(raw)
		for _, b := range a.secret {
			if form := b.find(text); form != "" {
				found++
				t.Errorf("%s is in %s, %s", b.name, where, form)
			}
		}
	}
	for line := range strings.Lines(string(out["output"])) {
		if strings.HasPrefix(line, "BREACH") {
			found++
			t.Errorf("%s", line)
		}
	}
	return found
}

// themeUser returns the user whose sandbox runs a theme.
func themeUser(n int) string { return fmt.Sprintf("a77ac4e0-0000-4000-8000-%012d", n) }

func TestSandboxesLeakNothing(t *testing.T) {
	a := newArena(t)
	global := readTree(t, filepath.Join(a.h.state, "volumes/dreamcore-global"))
	t.Run("control", a.controls)
	if t.Failed() {
		t.Fatal("the harness does not find what can be reached: it would find nothing else either")
	}
	files, _ := filepath.Glob("../../../testdata/adversarial/*.txtar")
	total, found := 0, 0
	for n, file := range files {
		theme := strings.TrimSuffix(filepath.Base(file), ".txtar")
		if theme == "control" {
			continue
		}
		scripts := adversaries(t, file, a.told)
		total += len(scripts)
		t.Run(theme, func(t *testing.T) { found += a.theme(t, themeUser(n), scripts) })
	}
	a.t, a.h.t = t, t
	if after := readTree(t, filepath.Join(a.h.state, "volumes/dreamcore-global")); !bytes.Equal(after, global) {
		t.Errorf("the global volume is not what it was:\n%.1000s", after)
	}
	if raw, err := os.ReadFile(projectFile(a.h, bob, otherProject, "secret.txt")); err != nil || !strings.HasPrefix(string(raw), "bob-") {
		t.Errorf("the other user's file: %q, %v", raw, err)
	}
	if total < 200 {
		t.Errorf("only %d scripts", total)
	}
	t.Logf("%d scripts, %d findings of %d baits", total, found, len(a.secret))
}

// theme runs scripts in the sandbox of one user, one after the other.
func (a *arena) theme(t *testing.T, user string, scripts []adversary) (found int) {
	began := time.Now()
	for _, script := range scripts {
		t.Run(script.name, func(t *testing.T) {
			a.t, a.h.t = t, t
			out := a.run(user, script.text)
			found += a.judge(t, out)
			// Some scripts end their own sandbox; the others must print something.
			if !strings.Contains(string(out["events"]), `"ended"`) && !slices.Contains([]string{"exhaust", "kernel", "pid1"}, script.theme) {
				t.Errorf("the script did not run:\n%.1500s", out["events"])
			}
			if t.Failed() || os.Getenv("DREAMCORE_TEST_SHOW") != "" {
				t.Logf("%s\n%.6000s", script.text, out["output"])
			}
			a.alive(t)
		})
	}
	a.t, a.h.t = t, t
	found += a.judge(t, a.leaves(user))
	a.h.run("sandbox", "stop", "user-"+user)
	t.Logf("%d scripts, %d findings, %s", len(scripts), found, time.Since(began).Round(100*time.Millisecond))
	return found
}

// alive checks that the service and the other user's job still work.
func (a *arena) alive(t *testing.T) {
	t.Helper()
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get(a.s.url + "/health")
	if err != nil {
		t.Fatalf("the service does not answer: %v\n%s", err, a.s.log)
	}
	_ = resp.Body.Close()
	select {
	case <-a.victim:
		t.Fatalf("the job of the other user has ended\n%s", a.s.log)
	default:
	}
}

// controls are scripts whose canary must be found, one for each kind of output.
func (a *arena) controls(t *testing.T) {
	a.t, a.h.t = t, t
	user := themeUser(0)
	a.run(user, "# victim\ntrue") // makes the project
	if err := os.WriteFile(projectFile(a.h, user, project, "own.txt"), []byte(a.control), 0o644); err != nil {
		t.Fatal(err)
	}
	own, answer := newCanary("control", a.control), newCanary("answer", a.answer)
	where := map[string]string{
		"environment plain": "output", "environment base64": "output", "proc hexadecimal": "output",
		"file reversed": "output", "file percent": "output", "file written": "project", "home written": "home",
		"gateway answer": "output", "gateway request": "upstream", "log": "log",
	}
	for _, script := range adversaries(t, "../../../testdata/adversarial/control.txtar", a.told) {
		out := a.run(user, `printf %s "$TOKEN" >.token;`+"\n"+script.text)
		token, _ := os.ReadFile(projectFile(a.h, user, project, ".token"))
		want := own
		switch kind, _, _ := strings.Cut(script.name, " "); {
		case kind == "environment" || kind == "proc":
			want = newCanary("token", strings.TrimPrefix(string(token), "sk-dreamcore-"))
		case script.name == "gateway answer" || kind == "log":
			want = answer
		}
		place, ok := where[script.name]
		if form := want.find(newSearched(out[place])); !ok || form == "" {
			t.Errorf("%s: not found in %q:\n%.1000s", script.name, place, out["output"])
		}
		delete(where, script.name)
	}
	if len(where) > 0 {
		t.Errorf("no controls for %v", where)
	}
	stays := a.leaves(user)
	for _, place := range []string{"journal", "versions", "served"} {
		if own.find(newSearched(stays[place])) == "" && answer.find(newSearched(stays[place])) == "" {
			t.Errorf("nothing of the controls is found in %s", place)
		}
	}
}
