package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// cluster is some cells on this machine, and a router in front of them.
type cluster struct {
	t         *testing.T
	hosts     []*host
	addresses []string
	args      []string // of each cell
	cells     []*service
	router    *service
}

// freeAddress returns an address of this machine that no program uses at present.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// newCluster returns cells with the same secrets that do not run yet.
func newCluster(t *testing.T, cells int, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, args: args}
	for range cells {
		h := newHost(t)
		for name, pair := range map[string]string{"preview-key": "PREVIEW_KEY", "job-link-key": "JOB_LINK_KEY"} {
			h.must("secret", "create", "--force", name, pair+"="+strings.Repeat(name, 5))
		}
		c.hosts, c.addresses = append(c.hosts, h), append(c.addresses, freeAddress(t))
	}
	return c
}

// start starts the cells and the router.
func (c *cluster) start(args ...string) {
	c.t.Helper()
	listen := freeAddress(c.t)
	_, port, _ := net.SplitHostPort(listen)
	domain := "DREAMCORE_PREVIEW_DOMAIN=http://localhost:" + port
	for i, h := range c.hosts {
		h.env = append(h.env, domain)
		c.cells = append(c.cells, nil)
		c.startCell(i)
	}
	dir := c.t.TempDir()
	var lines strings.Builder
	for i, address := range c.addresses {
		fmt.Fprintf(&lines, "cell-%d %s\n", i, address)
	}
	for name, text := range map[string]string{"cells": lines.String(), "key": strings.Repeat("preview-key", 5) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	h := c.hosts[0]
	cmd := h.command(context.Background(), append([]string{"route", "--listen", listen, "--cells", filepath.Join(dir, "cells")}, args...)...)
	cmd.Env = append(cmd.Env, "DREAMCORE_PREVIEW_KEY_FILE="+filepath.Join(dir, "key"))
	c.router = h.launch(cmd)
	c.router.ready()
}

func (c *cluster) startCell(i int) {
	c.t.Helper()
	c.cells[i] = c.hosts[i].serve(append(slices.Clone(c.args), "--listen", c.addresses[i])...)
}

// user returns a new user of a cell.
func (c *cluster) user(cell int) string {
	for {
		if id := uuid.NewString(); dreamcore.UserID(id).Slot()*len(c.hosts)/dreamcore.Slots == cell {
			return id
		}
	}
}

// read returns the answer to a GET with the secret.
func (s *service) read(path string) (int, string) { return s.get(path, s.secret) }

func TestAFrontEndWorksThroughARouter(t *testing.T) {
	c := newCluster(t, 2)
	model := frontEndModel(t).URL
	for _, h := range c.hosts {
		h.prepareFrontEnd(model)
	}
	c.start()
	c.router.frontEnd()
}

// frame is an event of a stream with its id.
type frame struct {
	id   uint64
	data string
}

// frames reads a stream to its end.
func (s *service) frames(path string, after uint64) (all []frame) {
	s.h.t.Helper()
	status, text := s.read(path + "?after=" + strconv.FormatUint(after, 10))
	if status != http.StatusOK {
		s.h.t.Fatalf("%s: %d %s", path, status, text)
	}
	return parseFrames(s.h.t, text)
}

func parseFrames(t *testing.T, text string) (all []frame) {
	t.Helper()
	for block := range strings.SplitSeq(text, "\n\n") {
		var f frame
		for line := range strings.SplitSeq(block, "\n") {
			if v, ok := strings.CutPrefix(line, "id: "); ok {
				n, err := strconv.ParseUint(v, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				f.id = n
			}
			if v, ok := strings.CutPrefix(line, "data: "); ok {
				f.data = v
			}
		}
		if f.data != "" {
			all = append(all, f)
		}
	}
	return all
}

// TestAStreamSurvivesItsCell kills a cell while the agent works. The stream ends with
// an error event, and goes on after it without a gap when the cell is back.
func TestAStreamSurvivesItsCell(t *testing.T) {
	c := newCluster(t, 2, "--model-script", writeScript(t, resumeScript))
	for _, h := range c.hosts {
		h.unbounded()
	}
	c.start()
	user := c.user(1)
	resp := c.router.post("/generate_game", generateBody(user, project, "a game"))
	defer resp.Body.Close()
	job := resp.Header.Get("X-Job-Id")
	text := make(chan string, 1)
	go func() {
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("the stream is broken: %v", err)
		}
		text <- string(raw)
	}()
	half := projectFile(c.hosts[1], user, project, "half.txt")
	waitUpTo(t, 4*time.Minute, "the agent's work", func() bool { raw, err := os.ReadFile(half); return err == nil && len(raw) > 0 })
	c.cells[1].kill()
	first := parseFrames(t, <-text)
	if len(first) < 2 {
		t.Fatalf("events: %v", first)
	}
	last, first := first[len(first)-1], first[:len(first)-1]
	var failure map[string]any
	if err := json.Unmarshal([]byte(last.data), &failure); err != nil || last.id != 0 || failure["type"] != "error" || failure["code"] != "CELL_LOST" || failure["recoverable"] != true || failure["userMessage"] == "" {
		t.Errorf("the last event is %+v", last)
	}
	// The player comes back while the cell is away, and is held until it is there.
	seen := first[len(first)-1].id
	rest := make(chan []frame, 1)
	go func() { rest <- c.router.frames("/jobs/"+job+"/events", seen) }()
	if status, body := c.router.read("/health"); status != http.StatusOK {
		t.Errorf("another cell: %d %s", status, body)
	}
	c.startCell(1)
	all := append(first, <-rest...)
	if end := all[len(all)-1]; end.data != `{"type":"done","exit_code":0}` {
		t.Errorf("it ends with %+v\n%s", end, c.cells[1].log)
	}
	if whole := c.router.frames("/jobs/"+job+"/events", 0); !slices.Equal(whole, all) {
		t.Errorf("the parts of the stream are\n%v\nand the whole is\n%v", all, whole)
	}
	for i, f := range all {
		if f.id != uint64(i+1) {
			t.Errorf("event %d has the id %d", i+1, f.id)
		}
	}
}

// TestARollingRestartRefusesNobody restarts one cell after the other, while jobs run
// and everything is read all the time.
func TestARollingRestartRefusesNobody(t *testing.T) {
	c := newCluster(t, 2, "--model-script", writeScript(t, waitScript))
	for _, h := range c.hosts {
		h.unbounded()
	}
	c.start()
	var readers []*load
	var users []string
	for i := range c.cells {
		l := &load{t: t, h: c.hosts[i]}
		user := c.user(i)
		users = append(users, user)
		write(t, c.router, user, "go")
		seed := c.router.post("/generate_game", generateBody(user, project, "begin"))
		raw, err := io.ReadAll(seed.Body)
		seed.Body.Close()
		if err != nil || !strings.Contains(string(raw), `"done"`) {
			t.Fatalf("%v\n%s\n%s", err, raw, c.cells[i].log)
		}
		all := c.router.callersOf(user, seed.Header.Get("X-Job-Id"))
		l.callers = []*caller{all[2], all[3], all[5]} // a file, a stream, and a kept connection
		ctx, stop := context.WithCancel(context.Background())
		l.stop = stop
		for _, caller := range l.callers {
			l.running.Go(func() {
				defer caller.client.CloseIdleConnections()
				caller.run(ctx)
			})
		}
		t.Cleanup(l.end)
		readers = append(readers, l)
	}
	for i := range c.cells {
		busy := c.user(i)
		stream := c.router.watch(http.MethodPost, "/generate_game", generateBody(busy, project, "wait"))
		waitUpTo(t, 4*time.Minute, "the agent's command", func() bool { return exists(projectFile(c.hosts[i], busy, project, "began")) })
		ended := make(chan struct{})
		go func() {
			c.cells[i].stop() // waits for the job
			close(ended)
		}()
		readers[i].goesOn("while the cell drains")
		if err := os.WriteFile(projectFile(c.hosts[i], busy, project, "go"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if last := stream.until(never); last["type"] != "done" {
			t.Errorf("the job ended with %v", last)
		}
		<-ended
		made := make(chan int, 1)
		go func() { // held until the cell is back
			resp := c.router.post("/prewarm_sandbox", fmt.Sprintf(`{"user_id":%q}`, users[i]))
			resp.Body.Close()
			made <- resp.StatusCode
		}()
		c.startCell(i)
		if status := <-made; status != http.StatusOK {
			t.Errorf("a request while the cell was away: %d", status)
		}
		readers[i].goesOn("after the restart")
	}
	for _, l := range readers {
		l.check(0)
	}
}

// TestListsOfAllCellsAreExact pages through what several cells have.
func TestListsOfAllCellsAreExact(t *testing.T) {
	c := newCluster(t, 3, "--model-script", "demo")
	c.start("--hold", "1s")
	var users, jobs []string
	for i := range 7 {
		user := c.user(i % 3)
		users = append(users, user)
		write(t, c.router, user, "index.html")
		resp := c.router.post("/generate_game", generateBody(user, project, "x", "_test_error", "general"))
		_, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, resp.Header.Get("X-Job-Id"))
	}
	slices.Sort(users)
	slices.Reverse(jobs) // the newest first
	for _, limit := range []int{1, 2, 3, 7, 50} {
		for list, want := range map[string][]string{"users": users, "jobs": jobs} {
			if got := c.router.pages(list, limit); !slices.Equal(got, want) {
				t.Errorf("%s by %d:\n%v, want\n%v", list, limit, got, want)
			}
		}
	}
	for query, want := range map[string]int{"jobs?cursor=x": 400, "users?cursor=x": 400, "jobs?limit=0": 400, "jobs?other=1": 400, "users?limit=x": 400, "jobs?state=failed": 200, "users?user_id=" + users[0]: 400, "projects": 400, "projects/" + project: 409} {
		if status, body := c.router.read("/" + query); status != want {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	c.cells[2].stop()
	// Without a cell the list would look complete.
	status, body := c.router.read("/jobs")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "cell-2") || !strings.Contains(body, "CELL_AWAY") {
		t.Errorf("without a cell: %d %s", status, body)
	}
}

// pages returns the ids in all pages of a list.
func (s *service) pages(list string, limit int) (ids []string) {
	s.h.t.Helper()
	for cursor := ""; ; {
		status, text := s.read("/" + list + "?" + url.Values{"limit": {strconv.Itoa(limit)}, "cursor": {cursor}}.Encode())
		if cursor == "" {
			status, text = s.read("/" + list + "?limit=" + strconv.Itoa(limit))
		}
		var page map[string]json.RawMessage
		var entries []map[string]any
		if err := json.Unmarshal([]byte(text), &page); err != nil || status != http.StatusOK {
			s.h.t.Fatalf("%s: %d %s", list, status, text)
		}
		if err := json.Unmarshal(page[list], &entries); err != nil {
			s.h.t.Fatal(err)
		}
		if len(entries) > limit {
			s.h.t.Errorf("%d entries in a page of %d", len(entries), limit)
		}
		for _, e := range entries {
			id := text2(e["id"], e["user_id"])
			ids = append(ids, id)
		}
		cursor = ""
		if page["next"] != nil {
			if err := json.Unmarshal(page["next"], &cursor); err != nil {
				s.h.t.Fatal(err)
			}
		}
		if cursor == "" {
			return ids
		}
	}
}

func text2(a, b any) string {
	if s := text(a); s != "" {
		return s
	}
	return text(b)
}

// TestGamesAreShownThroughARouter opens the link of a game of each cell, as a browser
// does.
func TestGamesAreShownThroughARouter(t *testing.T) {
	c := newCluster(t, 2, "--model-script", "demo")
	c.start()
	for i := range c.cells {
		user := c.user(i)
		resp := c.router.post("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"index.html","content":"game of %s"}]}`, user, project, user))
		_, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		status, link := c.router.object("/preview_link", fmt.Sprintf(`{"user_id":%q,"project_id":%q}`, user, project))
		if status != http.StatusOK {
			t.Fatalf("%d %v", status, link)
		}
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		address := strings.TrimPrefix(c.router.url, "http://")
		client := &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address) // browsers resolve *.localhost themselves
			},
		}}
		defer client.CloseIdleConnections()
		page, err := client.Get(text(link["url"]))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(page.Body)
		page.Body.Close()
		if err != nil || page.StatusCode != http.StatusOK || string(raw) != "game of "+user {
			t.Errorf("cell %d: %s %q, %v", i, page.Status, raw, err)
		}
	}
}
