//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube/kubetest"
)

// kubeCluster is a cluster whose map is in a real API server. It refuses addresses of
// loopback in EndpointSlices, so those of the cells are in a file.
type kubeCluster struct {
	*cluster
	api   *kubetest.Control
	flags []string // that say where the cluster is
}

func newKubeCluster(t *testing.T, cells int, args ...string) *kubeCluster {
	t.Helper()
	c := &kubeCluster{cluster: newCluster(t, cells, args...), api: kubetest.Start(t)}
	var lines strings.Builder
	for i, h := range c.hosts {
		h.unbounded()
		c.cells = append(c.cells, nil)
		c.startCell(i)
		fmt.Fprintf(&lines, "cell-%d %s\n", i, c.addresses[i])
	}
	addresses := filepath.Join(t.TempDir(), "addresses")
	if err := os.WriteFile(addresses, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.flags = []string{"--cell-addresses", addresses, "--kubernetes-api", c.api.Server(), "--kubernetes-account", c.api.Account}
	c.run("init")
	h := c.hosts[0]
	c.router = h.launch(h.command(context.Background(), append([]string{"route", "--listen", freeAddress(t)}, c.flags...)...))
	c.router.ready()
	waitUpTo(t, time.Minute, "the router", func() bool { status, _ := c.router.read("/readyz"); return status == http.StatusOK })
	return c
}

// words returns the words of a command of dreamcore cells.
func (c *kubeCluster) words(args ...string) []string {
	return append(append([]string{"cells"}, args...), c.flags...)
}

// run runs a command and returns its JSON.
func (c *kubeCluster) run(args ...string) (o map[string]any) {
	c.t.Helper()
	out := c.hosts[0].must(append(c.words(args...), "--json")...)
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		c.t.Fatalf("%v: %v in %q", args, err, out)
	}
	return o
}

// refuses checks that a cell answers nothing of a user and does nothing.
func (c *kubeCluster) refuses(cell int, user string, jobs ...string) {
	c.t.Helper()
	s := c.cells[cell]
	for _, path := range []string{"/get_file?user_id=" + user + "&project_id=" + project, "/list_files?user_id=" + user + "&project_id=" + project, "/jobs?user_id=" + user, "/projects?user_id=" + user, "/users/" + user} {
		if status, body := s.read(path); status != http.StatusServiceUnavailable || !strings.Contains(body, "USER_MOVING") {
			c.t.Errorf("cell %d answers %s: %d %s", cell, path, status, body)
		}
	}
	for path, body := range map[string]string{
		"/generate_game": generateBody(user, project, "x"), "/prewarm_sandbox": fmt.Sprintf(`{"user_id":%q}`, user),
		"/apply_files":              fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"a","content":""}]}`, user, project),
		"/preview_link":             fmt.Sprintf(`{"user_id":%q,"project_id":%q}`, user, project),
		"/users/" + user + "/block": "",
	} {
		resp := s.post(path, body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			c.t.Errorf("cell %d answers %s: %s", cell, path, resp.Status)
		}
	}
	for _, job := range jobs {
		if status, body := s.read("/jobs/" + job); status != http.StatusNotFound {
			c.t.Errorf("cell %d knows job %s: %d %s", cell, job, status, body)
		}
	}
}

// readers read everything of a user until stop is called, which returns how many
// answers they have got.
func (c *kubeCluster) readers(user, job string) (stop func() int64) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var good, bad atomic.Int64
	fail := func(format string, a ...any) {
		if bad.Add(1) < 20 {
			c.t.Errorf(format, a...)
		}
		time.Sleep(50 * time.Millisecond)
	}
	address := strings.TrimPrefix(c.router.url, "http://")
	for _, path := range []string{
		"/get_file?user_id=" + user + "&project_id=" + project, "/list_files?user_id=" + user + "&project_id=" + project,
		"/jobs/" + job, "/jobs/" + job + "/events", "/users/" + user, "/projects/" + project,
	} {
		running.Go(func() {
			client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				r, err := http.NewRequest(http.MethodGet, c.router.url+path, http.NoBody)
				if err != nil {
					c.t.Error(err)
					return
				}
				r.Header.Set("X-Modal-Secret", c.router.secret)
				resp, err := client.Do(r)
				if err != nil {
					fail("%s: %v", path, err)
					continue
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					fail("%s: %s %s %v", path, resp.Status, body, err)
					continue
				}
				good.Add(1)
			}
		})
	}
	return func() int64 {
		cancel()
		running.Wait()
		return good.Load()
	}
}

// readAll returns a body, without what follows an error.
func readAll(r io.Reader) string {
	raw, _ := io.ReadAll(r)
	return string(raw)
}

// movingScript continues one conversation: each of its games is only reached by an
// agent that remembers the one before.
const movingScript = `{"conversations":[
	[{"tools":[{"name":"Bash","input":{"command":"echo one >index.html","description":"begin"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"echo half >half.txt; while [ ! -e go ]; do sleep 0.05; done; echo two >>index.html","description":"wait"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"echo three >>index.html","description":"go on"}}]},{"text":"done"}]
]}`

// generate makes a game through the router and returns its job.
func (c *kubeCluster) generate(user string) string {
	c.t.Helper()
	w := c.router.watch(http.MethodPost, "/generate_game", generateBody(user, project, "a game"))
	if last := w.until(never); last["type"] != "done" {
		c.t.Fatalf("%v\n%s\n%s", last, c.cells[0].log, c.cells[1].log)
	}
	return w.job
}

// spent returns what a cell has counted in its report, and what it shows of a user.
func (c *kubeCluster) spent(cell int, user string) (report, shown float64) {
	c.t.Helper()
	var u struct {
		Total struct {
			Cost json.Number `json:"cost_usd"`
		} `json:"total"`
	}
	out := c.hosts[cell].must("usage", "--json")
	if err := json.Unmarshal([]byte(out), &u); err != nil {
		c.t.Fatalf("%v in %s", err, out)
	}
	report, _ = u.Total.Cost.Float64()
	if status, text := c.cells[cell].read("/users/" + user); status == http.StatusOK {
		var v struct {
			Spent json.Number `json:"spent_usd"`
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			c.t.Fatal(err)
		}
		shown, _ = v.Spent.Float64()
	}
	return report, shown
}

// TestAUserMovesWhileReadAndWhileAJobRuns moves a user from one cell to another and
// back. Every read is answered, the job that runs ends where it began, and the
// conversation goes on in the other cell.
func TestAUserMovesWhileReadAndWhileAJobRuns(t *testing.T) {
	c := newKubeCluster(t, 2, "--model-script", writeScript(t, movingScript))
	user := c.user(0)
	first := c.generate(user)
	_, before := c.router.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_log"}`, user, project))
	stop := c.readers(user, first)
	t.Cleanup(func() { stop() })
	running := c.router.watch(http.MethodPost, "/generate_game", generateBody(user, project, "another"))
	waitUpTo(t, 4*time.Minute, "the agent's work", func() bool { return exists(projectFile(c.hosts[0], user, project, "half.txt")) })
	moved := make(chan result, 1)
	go func() { moved <- c.hosts[0].run(append(c.words("move", user, "--to", "cell-1"), "--json")...) }()
	waitUpTo(t, time.Minute, "the beginning of the move", func() bool {
		_, body := c.cells[0].read("/moves/" + user)
		return strings.Contains(body, `"leaving"`)
	})
	// What changes something waits, until the user has moved.
	held := make(chan string, 1)
	go func() {
		resp := c.router.post("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"held.txt","content":"x"}]}`, user, project))
		defer resp.Body.Close()
		held <- resp.Status + readAll(resp.Body)
	}()
	time.Sleep(300 * time.Millisecond) // it would be answered by now
	if err := os.WriteFile(projectFile(c.hosts[0], user, project, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if last := running.until(never); last["type"] != "done" {
		t.Errorf("the job that ran: %v\n%s", last, c.cells[0].log)
	}
	r := <-moved
	var moveResult map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &moveResult); err != nil || r.code != 0 {
		t.Fatalf("%+v\n%s\n%s", r, c.cells[0].log, c.cells[1].log)
	}
	t.Logf("%v", moveResult)
	if answer := <-held; !strings.HasPrefix(answer, "200") || !strings.Contains(answer, `"done"`) {
		t.Errorf("a change during the move: %s", answer)
	}
	if moveResult["from"] != "cell-0" || moveResult["users"] != 1.0 {
		t.Errorf("%v", moveResult)
	}
	c.refuses(0, user, first, running.job)
	report0, _ := c.spent(0, user)
	report1, shown := c.spent(1, user)
	if report0 <= 0 || report1 != 0 || shown != report0 {
		t.Errorf("cell-0 reports %v, cell-1 %v and shows %v: it must count once", report0, report1, shown)
	}
	third := c.generate(user)
	if got := c.router.file(user, project, "index.html"); got != "one\ntwo\nthree\n" {
		t.Errorf("the conversation does not go on: %q", got)
	}
	if !exists(projectFile(c.hosts[1], user, project, "held.txt")) || exists(projectFile(c.hosts[0], user, project, "held.txt")) {
		t.Error("the change is not in the new cell alone")
	}
	_, after := c.router.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_log"}`, user, project))
	old, now := before["commits"].([]any), after["commits"].([]any)
	if len(now) != len(old)+3 || text(now[len(now)-1].(map[string]any)["hash"]) != text(old[len(old)-1].(map[string]any)["hash"]) {
		t.Errorf("versions before: %v\nafter: %v", old, now)
	}
	// The streams of its jobs are read from the other cell, exactly.
	if all := c.router.frames("/jobs/"+running.job+"/events", 0); all[len(all)-1].data != `{"type":"done","exit_code":0}` || all[0].id != 1 {
		t.Errorf("%v", all)
	}
	if reads := stop(); reads < 50 {
		t.Errorf("%d reads", reads)
	} else {
		t.Logf("%d reads", reads)
	}
	// And back, over the old copy.
	t.Logf("the way back: %v", c.run("move", user, "--to", "cell-0"))
	c.refuses(1, user, first, third)
	if got := c.router.file(user, project, "index.html"); got != "one\ntwo\nthree\n" {
		t.Errorf("after the way back: %q", got)
	}
	report0, shown = c.spent(0, user)
	report1, _ = c.spent(1, user)
	if report1 <= 0 || shown-report0-report1 > 1e-9 || report0+report1-shown > 1e-9 {
		t.Errorf("after the way back cell-0 reports %v, cell-1 %v, the user has spent %v", report0, report1, shown)
	}
	list := c.run("list")
	if list["moving_users"] != nil || list["users"] != nil {
		t.Errorf("%v", list)
	}
}

// TestACutJobGoesOnInTheOtherCell moves a user whose job works for long, with a driver
// that is killed first.
func TestACutJobGoesOnInTheOtherCell(t *testing.T) {
	c := newKubeCluster(t, 2, "--model-script", writeScript(t, resumeScript))
	user := c.user(1)
	w := c.router.watch(http.MethodPost, "/generate_game", generateBody(user, project, "a game"))
	waiting := c.router.watch(http.MethodPost, "/generate_game", generateBody(user, project, "another"))
	waitUpTo(t, 4*time.Minute, "the agent's work", func() bool { return exists(projectFile(c.hosts[1], user, project, "half.txt")) })
	killed := c.hosts[0].command(context.Background(), c.words("move", user, "--to", "cell-0")...)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	waitUpTo(t, time.Minute, "the beginning of the move", func() bool {
		_, body := c.cells[1].read("/moves/" + user)
		return strings.Contains(body, `"leaving"`)
	})
	_ = killed.Process.Kill()
	_ = killed.Wait()
	// The second driver says who moves where; the move can be taken back, or finished.
	r := c.hosts[0].run(append(c.words("move", user, "--to", "cell-1"), "--json")...)
	if r.code == 0 || !strings.Contains(r.stdout+r.stderr, "is being moved from cell-1 to cell-0 already") {
		t.Errorf("%+v", r)
	}
	c.run("undo", user)
	if _, body := c.cells[1].read("/moves/" + user); strings.Contains(body, "leaving") {
		t.Errorf("after undo: %s", body)
	}
	result := c.run("move", user, "--to", "cell-0", "--cut")
	t.Logf("%v", result)
	if last := w.until(never); last["type"] == "done" {
		t.Errorf("the job was not cut: %v", last)
	}
	again, next := c.router.watch(http.MethodGet, "/jobs/"+w.job+"/events", ""), c.router.watch(http.MethodGet, "/jobs/"+waiting.job+"/events", "")
	if last := again.until(never); last["type"] != "done" {
		t.Errorf("the job that was cut: %v\n%s", last, c.cells[0].log)
	}
	if got := c.router.file(user, project, "index.html"); got != "half\n" {
		t.Errorf("the game is %q", got)
	}
	if last := next.until(never); last["type"] != "done" {
		t.Errorf("the job that waited: %v\n%s", last, c.cells[0].log)
	}
	c.refuses(1, user, w.job, waiting.job)
	// A restart of the old cell does not take the job up either.
	c.cells[1].stop()
	c.startCell(1)
	c.refuses(1, user, w.job, waiting.job)
	if _, err := os.Stat(filepath.Join(c.hosts[1].state, "jobs", w.job+".ndjson")); err != nil {
		t.Error("the old copy is kept for a day:", err)
	}
}

// TestACellIsEmptied moves slots, and everything off a cell, while its users are read.
func TestACellIsEmptied(t *testing.T) {
	c := newKubeCluster(t, 2, "--model-script", "demo")
	var users []string
	for i := range 6 {
		user := c.user(i % 2)
		users = append(users, user)
		resp := c.router.post("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"index.html","content":"game of %s"}]}`, user, project, user))
		readAll(resp.Body)
		resp.Body.Close()
	}
	c.run("move", users[0], "--to", "cell-1") // an exception
	if plan := c.run("drain", "cell-1", "--dry-run"); len(plan["plan"].([]any)) != 513 {
		t.Errorf("%d moves", len(plan["plan"].([]any)))
	}
	began := time.Now()
	drained := c.run("drain", "cell-1", "--yes", "--settle", "0s")
	t.Logf("%d moves in %v", len(drained["moves"].([]any)), time.Since(began))
	for i, user := range users {
		if got := c.router.file(user, project, "index.html"); got != "game of "+user {
			t.Errorf("%s: %q", user, got)
		}
		if i%2 == 1 || i == 0 { // the others were never there
			c.refuses(1, user)
		}
	}
	list := c.run("list")
	cells := list["cells"].([]any)
	if one := cells[1].(map[string]any); one["slot_count"] != 0.0 || one["draining"] != true || one["serves"] != true {
		t.Errorf("%v", one)
	}
	// A new user of a slot that has moved is made in its new cell, and only there.
	fresh := c.user(1)
	write(t, c.router, fresh, "index.html")
	if !exists(projectFile(c.hosts[0], fresh, project, "index.html")) {
		t.Error("a new user is not where the slot is")
	}
	c.refuses(1, fresh)
	// The cell leaves the map, and comes back.
	c.run("scale", "1", "--yes")
	if list := c.run("list"); len(list["cells"].([]any)) != 1 {
		t.Errorf("%v", list)
	}
	c.run("scale", "2", "--yes", "--settle", "0s")
	list = c.run("list")
	for _, v := range list["cells"].([]any) {
		if v.(map[string]any)["slot_count"] != 512.0 {
			t.Errorf("%v", v)
		}
	}
	for _, user := range append(users, fresh) {
		got := c.router.file(user, project, "index.html")
		if user != fresh && got != "game of "+user || user == fresh && got != "" {
			t.Errorf("after the cell has come back: %s: %q", user, got)
		}
		write(t, c.router, user, "later.txt")
	}
}
